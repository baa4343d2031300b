"""Signing what is sent: which key, which option, which code (Linux: tcp_get_current_key, tcp_ao_transmit_skb).

A socket without keys has no `auth`, and nothing here is called for it. One with keys sends its segments one by one, for
no device can sign the parts of a super-segment (Linux: sk_gso_disable). Segments without a socket, those of the
handshake, of TIME-WAIT, and resets, are signed by auth_reply.py; what is received is checked in auth_input.py.

The option is the first of a segment, but for acknowledgements without a socket, where it follows the time stamp.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.transport.tcp import accecn_option, ao
from usernet.transport.tcp.ao import AoKey, ao_code
from usernet.transport.tcp.auth_keys import Auth
from usernet.transport.tcp.const import MSEC, SEQ_MASK
from usernet.transport.tcp.ecn import TCP_ECN_MODE_ACCECN
from usernet.transport.tcp.md5 import MD5_KEY_SIZE, Md5Key, copy_key, md5_digest, md5_lookup
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, SYN
from usernet.wire.tcp_accecn import build_accecn, insert_accecn

if TYPE_CHECKING:
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock

CODE_AT: Final = 4
"""Where in its option, with the padding before it, the code starts: the same for both kinds."""


@final
class Signer:
    """How one segment is signed. option: the bytes of the option, its code zeros, padded. traffic, sne: TCP-AO's."""

    __slots__ = ("key", "option", "sne", "traffic")

    def __init__(self, key: Md5Key | AoKey, option: bytes, traffic: bytes = b"", sne: int = 0) -> None:
        self.key = key
        self.option = option
        self.traffic = traffic
        self.sne = sne

    def sign(
        self, header: bytes, at: int, saddr: bytes, daddr: bytes, payload: Iterable[bytes | memoryview] = (),
        length: int = 0,
    ) -> bytes:  # fmt: skip
        """The header with its code. at: where in it the option starts; payload: what follows it, `length` bytes."""
        at += CODE_AT
        key = self.key
        total = len(header) + length
        if isinstance(key, Md5Key):
            code = md5_digest(key.key, saddr, daddr, header, payload, total)
        else:
            code = ao_code(key, self.traffic, self.sne, saddr, daddr, header, at, payload, total)
        return header[:at] + code + header[at + len(code) :]


def current_key(sk: TcpSock) -> Md5Key | AoKey | None:
    """The key that the connection's segments are signed with (Linux: tcp_get_current_key)."""
    auth = sk.auth
    if auth is None:
        return None
    if auth.ao is not None:
        return auth.ao.current_key
    return md5_lookup(auth, sk.daddr)


def option_size(sk: TcpSock) -> int:
    """Bytes that the signature takes of each segment's options."""
    key = current_key(sk)
    return 0 if key is None else key.size


def signer(sk: TcpSock, seq: int, flags: int) -> Signer | None:
    """How a segment of a connection is signed; None where it is not."""
    key = current_key(sk)
    if key is None or isinstance(key, Md5Key):
        return None if key is None else Signer(key, key.option)
    auth = sk.auth
    assert auth is not None and auth.ao is not None
    info = auth.ao
    if flags & (SYN | ACK) == SYN:
        # The peer's initial number isn't known yet (RFC 5925 section 5.2).
        traffic = key.traffic_key(sk.saddr, sk.daddr, sk.sport, sk.dport, info.lisn, 0)
    elif flags & SYN or not key.snd_other:
        traffic = key.traffic_key(sk.saddr, sk.daddr, sk.sport, sk.dport, info.lisn, info.risn)
    else:
        traffic = key.snd_other
    rnext = info.rnext_key or key
    return Signer(key, key.option(key.sndid, rnext.rcvid), traffic, info.send_sne(sk, sk.snd_una, seq))


def signed_header(
    sk: TcpSock, seq: int, flags: int, window: int, urg_ptr: int, payload: Iterable[bytes | memoryview], length: int
) -> bytes:
    """The header of a segment of a synchronised connection: signature, time stamp, and as many SACK blocks as there is
    room for (Linux: tcp_established_options)."""
    how = signer(sk, seq, flags)
    signature = b"" if how is None else how.option
    room = wire.MAX_TCP_OPTION_SPACE - len(signature)
    stamps: tuple[int, int] | None = None
    if sk.tstamp_ok:
        stamps = (sk.loop.now // MSEC + sk.tsoffset) & SEQ_MASK, sk.ts_recent
        room -= wire.TCPOLEN_TSTAMP_ALIGNED
    dsack = sk.duplicate_sack
    blocks = [dsack, *sk.selective_acks] if dsack is not None else list(sk.selective_acks)
    room = max(room - wire.TCPOLEN_SACK_BASE_ALIGNED, 0) // wire.TCPOLEN_SACK_PERBLOCK
    count = min(len(blocks), room)
    state = sk.ecn if sk.ecn_flags & TCP_ECN_MODE_ACCECN else None
    fields = -1
    if state is not None:
        fields, count = accecn_option.established_fit(sk, state, count, len(signature))
    options = wire.build_sack(blocks[:count], stamps)
    if state is not None:
        if fields >= 0:
            options = insert_accecn(options, build_accecn(fields, state.received_bytes))
        accecn_option.option_sent(sk, state, fields >= 0)
    if room:
        sk.duplicate_sack = None
    options = signature + options
    check = (sk.pseudo_base + wire.TCP_HLEN + len(options) + length) % 0xFFFF
    header = wire.build(sk.sport, sk.dport, seq, sk.rcv_nxt, flags, window, check, urg_ptr, options)
    return header if how is None else how.sign(header, wire.TCP_HLEN, sk.saddr, sk.daddr, payload, length)


def connect_check(sk: TcpSock) -> None:
    """Before a SYN is sent: which kind of signature it is to be (Linux: tcp_connect).

    Raises OSError EKEYREJECTED where the peer has keys of both kinds, or the socket has TCP-AO and no key for the peer.
    """
    auth = sk.auth
    if auth is None:
        return
    info = auth.ao
    if info is not None:
        key = info.lookup(0, sk.daddr, -1, -1)
        md5 = md5_lookup(auth, sk.daddr) is not None
        if md5 and (key is not None or info.ao_required):
            raise error(errno.EKEYREJECTED, "the peer has keys of TCP MD5 and of TCP-AO")
        if md5:
            sk.omem_alloc -= sum(key.omem for key in info.keys)
            auth.ao = None
        elif key is None:
            raise error(errno.EKEYREJECTED, "TCP-AO has no key for the peer")
        else:
            sk.omem_alloc -= MD5_KEY_SIZE * len(auth.md5)
            auth.md5.clear()


def has_key(request: RequestSock) -> bool:
    """Whether the listener still has a key of TCP-AO for the peer. A connection that began signed can't go on unsigned
    (RFC 5925 section 7.4)."""
    auth = request.listener.auth
    return auth is not None and auth.ao is not None and auth.ao.lookup(0, request.daddr, -1, -1) is not None


def inherit_keys(child: TcpSock, request: RequestSock, listener: Auth) -> None:
    """A connection has the keys of its listener that are for its peer (Linux: tcp_v4_syn_recv_sock)."""
    auth = Auth()
    if request.used_ao:
        if listener.ao is not None:
            ao.inherit(auth, child, request, listener.ao)
            key = listener.ao.lookup(0, child.daddr, request.ao_keyid, -1)
            child.tcp_header_len += 0 if key is None else key.size
    else:
        key5 = md5_lookup(listener, child.daddr)
        if key5 is None:
            return
        copy_key(auth, key5, child.daddr)
        child.omem_alloc += MD5_KEY_SIZE
    child.auth = auth


def timewait_auth(sk: TcpSock) -> Auth | None:
    """What a record in TIME-WAIT needs to sign and to check (Linux: tcp_time_wait_init, tcp_ao_time_wait)."""
    auth = sk.auth
    if auth is None:
        return None
    kept = Auth()
    kept.ao = auth.ao
    key = md5_lookup(auth, sk.daddr)
    if key is not None:
        copy_key(kept, key, sk.daddr)
    return kept
