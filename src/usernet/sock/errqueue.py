"""The error queue: ICMP errors, time stamps and zero-copy completions a socket asked to be told of (MSG_ERRQUEUE).

ip(7), IP_RECVERR; Linux: `struct sock_exterr_skb`, sock_queue_err_skb. An entry is a packet whose `cb` is an
`ExtendedError`; its data is what was quoted of the packet that was sent.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import SockAddr

if TYPE_CHECKING:
    from usernet.sock.sock import Sock

SO_EE_ORIGIN_NONE: Final = 0
SO_EE_ORIGIN_LOCAL: Final = 1
SO_EE_ORIGIN_ICMP: Final = 2
SO_EE_ORIGIN_ICMP6: Final = 3
SO_EE_ORIGIN_TIMESTAMPING: Final = 4
SO_EE_ORIGIN_ZEROCOPY: Final = 5

_SOCK_EXTENDED_ERR: Final = Struct("=IBBBBII")


@final
class ExtendedError:
    """One entry (`struct sock_extended_err`), with whom the packet was sent to, and who complained."""

    __slots__ = ("code", "data", "destination", "errno", "info", "kind", "offender", "opt_stats", "origin")

    def __init__(
        self, errno: int, origin: int, kind: int, code: int, info: int, data: int,
        destination: SockAddr | None, offender: SockAddr | None,
    ) -> None:  # fmt: skip
        self.errno = errno
        self.origin = origin
        self.kind = kind
        self.code = code
        self.info = info
        self.data = data
        self.destination = destination
        self.offender = offender
        self.opt_stats = False
        """Whether the data is the state of a connection (SOF_TIMESTAMPING_OPT_STATS)."""

    def pack(self) -> bytes:
        """As `struct sock_extended_err`; the offender's address follows it in the ancillary data."""
        return _SOCK_EXTENDED_ERR.pack(self.errno, self.origin, self.kind, self.code, 0, self.info, self.data)


def queue_error(sk: Sock, entry: ExtendedError, quoted: SKBuff) -> bool:
    """Queue `entry`, with what `quoted` holds (Linux: sock_queue_err_skb). False where the socket's receive buffer is
    full: it is then dropped and not queued."""
    if sk.rmem_alloc + quoted.truesize >= sk.rcvbuf:
        return False
    quoted.cb = entry
    sk.charge_receive(quoted)
    if sk.error_queue is None:
        sk.error_queue = SKBuffQueue()
    sk.error_queue.append(quoted)
    if not sk.dead:
        sk.error_report()
    return True


def dequeue_error(sk: Sock) -> SKBuff | None:
    """The first entry; the socket's pending error becomes the next entry's, as Linux has it (sock_dequeue_err_skb)."""
    queue = sk.error_queue
    if queue is None:
        return None
    skb = queue.popleft()
    following = queue.first
    if following is not None and is_icmp(following):
        entry: ExtendedError = following.cb
        sk.err = entry.errno
    elif skb is not None and is_icmp(skb):
        sk.err = 0
    if following is None:
        sk.error_queue = None
    elif not sk.dead:
        sk.error_report()
    return skb


def is_icmp(skb: SKBuff) -> bool:
    """Whether an entry came from an ICMP error."""
    entry: ExtendedError = skb.cb
    return entry.origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6)
