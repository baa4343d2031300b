"""TCP Fast Open, what both sides share: settings, cookies, requests (RFC 7413; Linux: tcp_fastopen.c).

A server gives a client a cookie, made of the two addresses and a secret key. The client's next SYN carries the cookie
and the first data, which the server's application may read before the handshake is done. The client's side is in
fastopen_client.py, the server's in fastopen_server.py.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.net.dst import RTAX_FASTOPEN_NO_COOKIE
from usernet.transport.tcp.const import SEQ_MASK
from usernet.wire.tcp import FIN, SYN

if TYPE_CHECKING:
    from usernet.net.dst import Dst
    from usernet.skbuff.skbuff import SKBuff
    from usernet.sock.msg import MsgHdr
    from usernet.sock.zerocopy import UbufInfo
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp

TFO_CLIENT_ENABLE: Final = 1
TFO_SERVER_ENABLE: Final = 2
TFO_CLIENT_NO_COOKIE: Final = 4
TFO_SERVER_COOKIE_NOT_REQD: Final = 0x200
TFO_SERVER_WO_SOCKOPT1: Final = 0x400

KEY_SIZE: Final = 16

TFO_COOKIE_UNAVAILABLE: Final = 1
TFO_DATA_NOT_ACKED: Final = 2
TFO_SYN_RETRANSMITTED: Final = 3

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_U64: Final = Struct("<Q")


@final
class FastopenRequest:
    """A Fast Open that a client has under way (Linux: `struct tcp_fastopen_request`).

    message: what to send, None where connect() began it. cookie: to be sent with the next SYN, b"" to ask for one, None
    for no option. copied: bytes of the message that went with the SYN. pending: whether some did not. uarg: the report
    of MSG_ZEROCOPY.
    """

    __slots__ = ("cookie", "cookie_exp", "copied", "message", "pending", "uarg")

    def __init__(self, message: MsgHdr | None) -> None:
        self.message = message
        self.cookie: bytes | None = None
        self.cookie_exp: bool = False
        self.copied: int = 0
        self.uarg: UbufInfo | None = None
        self.pending: bool = message is not None and message.iter.length > 0


def no_cookie(sk: TcpSock, dst: Dst | None, flag: int) -> bool:
    """Whether Fast Open works without a cookie: by tcp_fastopen's bit `flag`, TCP_FASTOPEN_NO_COOKIE, or the route's
    `fastopen_no_cookie` (Linux: tcp_fastopen_no_cookie)."""
    return bool(
        sk.tcp.tcp_fastopen & flag
        or sk.tfo.fastopen_no_cookie
        or (dst is not None and dst.metric(RTAX_FASTOPEN_NO_COOKIE))
    )


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def siphash(data: bytes, key: bytes) -> int:
    """SipHash-2-4 of `data` under a key of 16 bytes."""
    k0, k1 = _U64.unpack_from(key)[0], _U64.unpack_from(key, 8)[0]
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    words = [_U64.unpack_from(padded, at)[0] for at in range(0, len(padded), 8)]
    for word, rounds in [*((word, 2) for word in words), (0, 4)]:
        if rounds == 4:
            v2 ^= 0xFF
        v3 ^= word
        for _ in range(rounds):
            v0 = (v0 + v1) & _MASK
            v2 = (v2 + v3) & _MASK
            v1 = _rotate(v1, 13) ^ v0
            v3 = _rotate(v3, 16) ^ v2
            v0 = _rotate(v0, 32)
            v2 = (v2 + v1) & _MASK
            v0 = (v0 + v3) & _MASK
            v1 = _rotate(v1, 17) ^ v2
            v3 = _rotate(v3, 21) ^ v0
            v2 = _rotate(v2, 32)
        v0 ^= word
    mixed: int = v0 ^ v1 ^ v2 ^ v3
    return mixed


def parse_keys(text: str) -> list[bytes]:
    """The keys of net.ipv4.tcp_fastopen_key: one or two, each four hexadecimal words joined by "-".

    Raises ValueError for anything else.
    """
    keys = []
    for part in text.split(","):
        words = part.strip().split("-")
        if len(words) != 4:
            raise ValueError(f"tcp_fastopen_key: expected four hexadecimal numbers joined by '-', not {part!r}")
        try:
            keys.append(b"".join(int(word, 16).to_bytes(4, "little") for word in words))
        except (OverflowError, ValueError):
            raise ValueError(f"tcp_fastopen_key: expected hexadecimal numbers of 32 bits, not {part!r}") from None
    if len(keys) > 2:
        raise ValueError("tcp_fastopen_key: expected one key or two")
    return keys


def format_keys(keys: list[bytes]) -> str:
    """The reverse; zeros where there is none (Linux: proc_tcp_fastopen_key)."""
    words = Struct("<4I")
    return ",".join("-".join(f"{word:08x}" for word in words.unpack(key)) for key in keys or [bytes(KEY_SIZE)])


def init_key_once(tcp: Tcp) -> None:
    """The namespace has a key from now on (Linux: tcp_fastopen_init_key_once)."""
    if not tcp.fastopen_keys:
        tcp.fastopen_keys = [tcp.net.random.randbytes(KEY_SIZE)]
        tcp.tcp_fastopen_key = format_keys(tcp.fastopen_keys)


def keys_of(tcp: Tcp, sk: TcpSock) -> Sequence[bytes]:
    """The keys of a listener: its own (TCP_FASTOPEN_KEY), or its namespace's."""
    return sk.request_queue.fastopen_keys or tcp.fastopen_keys


def make_cookie(key: bytes, saddr: bytes, daddr: bytes) -> bytes:
    """The cookie of a client (Linux: __tcp_fastopen_cookie_gen_cipher). saddr, daddr: of its SYN."""
    return _U64.pack(siphash(saddr + daddr, key))


def set_queue(sk: TcpSock, length: int) -> None:
    """TCP_FASTOPEN: how many requests with data, at most, wait for the end of their handshake (fastopen_queue_tune)."""
    init_key_once(sk.tcp)
    sk.own_request_queue().fastopen_max_qlen = min(length, sk.settings.somaxconn)


def set_keys(sk: TcpSock, value: bytes) -> None:
    """TCP_FASTOPEN_KEY: one key of 16 bytes, or two. Raises OSError EINVAL."""
    if len(value) not in (KEY_SIZE, 2 * KEY_SIZE):
        raise error(errno.EINVAL, f"TCP_FASTOPEN_KEY: expected 16 or 32 bytes, not {len(value)}")
    sk.own_request_queue().fastopen_keys = [value[at : at + KEY_SIZE] for at in range(0, len(value), KEY_SIZE)]


def add_data(sk: TcpSock, skb: SKBuff, doff: int) -> None:
    """Queue the data of a SYN or SYN+ACK, a copy of which is taken (Linux: tcp_fastopen_add_skb)."""
    from usernet.transport.tcp.data import queue_rcv, tcp_fin

    if skb.end_seq == sk.rcv_nxt:
        return
    part = skb.clone()
    part.seq = (skb.seq + 1) & SEQ_MASK
    part.end_seq = skb.end_seq
    part.ack_seq = skb.ack_seq
    part.tcp_flags = skb.tcp_flags & ~SYN
    part.data += doff
    part.len -= doff
    part.dst = None
    sk.segs_in = 1
    sk.data_segs_in = 1 if part.len else 0
    sk.own_tfo().syn_data_acked = True
    queue_rcv(sk, part)
    sk.bytes_received = part.len
    if part.tcp_flags & FIN:
        tcp_fin(sk)
