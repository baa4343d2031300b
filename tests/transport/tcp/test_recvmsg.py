"""Reading into memory that ends before the data does."""

from __future__ import annotations

import errno

import pytest

from tests.transport.tcp.harness import Peer, sock_of
from usernet.core.iov import CollectIter, IovIter, Payload
from usernet.sock.msg import MSG_DONTWAIT, MsgHdr
from usernet.transport.tcp.recvmsg import tcp_recvmsg
from usernet.wire.tcp import ACK, FIN

SIZE = 5000


class Faulty(IovIter):
    """Memory of which only the first `good` bytes are there."""

    def __init__(self, length: int, good: int) -> None:
        super().__init__(length)
        self.good = good

    def write(self, data: Payload) -> int:
        if len(data) > self.good:
            raise OSError(errno.EFAULT, "no such memory")
        self.good -= len(data)
        self.length -= len(data)
        return len(data)


@pytest.mark.parametrize("last", [ACK, ACK | FIN])
def test_what_was_copied_before_the_fault_counts_and_the_rest_stays(peer: Peer, last: int) -> None:
    sock = peer.active()
    for number, flags in enumerate((ACK, ACK, last)):
        peer.send(flags, 1 + number * SIZE, 1, bytes([number]) * SIZE)
    sk = sock_of(sock)
    with pytest.raises(OSError, match="no such memory"):
        tcp_recvmsg(sk, MsgHdr(Faulty(3 * SIZE, SIZE - 1)), MSG_DONTWAIT, 0)
    assert tcp_recvmsg(sk, MsgHdr(Faulty(3 * SIZE, 2 * SIZE - 1)), MSG_DONTWAIT, 0) == SIZE
    sink = CollectIter(3 * SIZE)
    assert tcp_recvmsg(sk, MsgHdr(sink), MSG_DONTWAIT, 0) == 2 * SIZE
    assert sink.getvalue() == b"\1" * SIZE + b"\2" * SIZE
