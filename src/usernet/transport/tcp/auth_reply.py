"""Signing what is sent without a socket: SYN+ACKs, acknowledgements of requests and of TIME-WAIT, resets (Linux:
tcp_make_synack, tcp_v4_reqsk_send_ack, tcp_v4_timewait_ack, tcp_v4_send_reset).

A reset can be signed only where its receiver can check it. With TCP MD5 the key is enough, so even a host that lost the
connection can reset it, as long as it has a listener with the key for the peer; the segment that is answered must be
good. With TCP-AO the connection's initial numbers are needed, so that without them no reset is sent at all (RFC 5925
section 7.7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.transport.tcp.ao import compute_sne
from usernet.transport.tcp.auth import Signer
from usernet.transport.tcp.auth_input import md5_good
from usernet.transport.tcp.const import SEQ_MASK, TCP_LISTEN
from usernet.transport.tcp.md5 import md5_lookup
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.ao import AoKey
    from usernet.transport.tcp.auth_keys import Auth
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.transport.tcp.timewait import TimeWaitSock


class Unsigned(Exception):
    """What should be sent can't be signed, so it must not be sent."""


def _options(skb: SKBuff) -> tuple[int, int]:
    """Where a received segment's signatures are. Raises Unsigned for a malformed one."""
    start = skb.transport_header
    found = wire.parse_auth_options(
        skb.head, start + wire.TCP_HLEN, start + (skb.head[start + 12] >> 2 & 0x3C)
    )
    if found is None:
        raise Unsigned
    return found


def init_request(request: RequestSock, skb: SKBuff) -> None:
    """What the SYN says of TCP-AO: the keys by which the peer goes on (Linux: tcp_conn_request, tcp_ao_syncookie)."""
    start = skb.transport_header
    found = wire.parse_auth_options(
        skb.head, start + wire.TCP_HLEN, start + (skb.head[start + 12] >> 2 & 0x3C)
    )
    if found is not None and found[1]:
        request.ao_keyids = skb.head[found[1] + 2], skb.head[found[1] + 3]


def synack_signer(request: RequestSock) -> Signer | None:
    """How a SYN+ACK is signed; None where it is not (Linux: tcp_make_synack).

    Raises Unsigned where the key that the peer asked for is gone.
    """
    auth = request.listener.auth
    if request.ao_keyids is None:
        md5 = md5_lookup(auth, request.daddr) if auth is not None else None
        return None if md5 is None else Signer(md5, md5.option)
    rcv_next, keyid = request.ao_keyids
    key = auth.ao.lookup(0, request.daddr, keyid, -1) if auth is not None and auth.ao is not None else None
    if key is None:
        trace = request.tcp.net.trace.tcp_ao_synack_no_key
        if trace.probes:
            trace.fire(request.listener, keyid, rcv_next)
        raise Unsigned
    traffic = key.traffic_key(
        request.saddr, request.daddr, request.sport, request.dport, request.snt_isn, request.rcv_isn
    )
    return Signer(key, key.option(keyid, rcv_next), traffic)


def request_signer(request: RequestSock, skb: SKBuff, seq: int) -> Signer | None:
    """How the acknowledgement of a request is signed, in answer to `skb` (Linux: tcp_v4_reqsk_send_ack)."""
    auth = request.listener.auth
    if not request.used_ao:
        md5 = md5_lookup(auth, request.daddr) if auth is not None else None
        return None if md5 is None else Signer(md5, md5.option)
    _, ao_at = _options(skb)
    info = auth.ao if auth is not None else None
    if not ao_at or info is None:
        raise Unsigned
    keyid, rnext = skb.head[ao_at + 2], skb.head[ao_at + 3]
    key = info.lookup(0, request.daddr, rnext, -1) or info.lookup(0, request.daddr, -1, -1)
    if key is None:
        raise Unsigned
    traffic = key.traffic_key(
        request.saddr, request.daddr, request.sport, request.dport, request.snt_isn, request.rcv_isn
    )
    return Signer(key, key.option(key.sndid, keyid), traffic, compute_sne(0, request.snt_isn, seq))


def timewait_signer(record: TimeWaitSock, skb: SKBuff) -> Signer | None:
    """How the acknowledgement of a record is signed, in answer to `skb` (Linux: tcp_v4_timewait_ack)."""
    auth = record.auth
    if auth is None:
        return None
    info = auth.ao
    if info is None:
        md5 = md5_lookup(auth, record.daddr)
        return None if md5 is None else Signer(md5, md5.option)
    _, ao_at = _options(skb)
    key = info.key_of(skb.head[ao_at + 3], -1) if ao_at else None
    if key is None:
        raise Unsigned
    rnext = info.rnext_key or key
    sne = info.send_sne(record, record.snd_nxt, record.snd_nxt)
    return Signer(key, key.option(key.sndid, rnext.rcvid), key.snd_other, sne)


def reset_signer(
    tcp: Tcp, sk: TcpSock | RequestSock | TimeWaitSock | None, skb: SKBuff, seq: int
) -> Signer | None:
    """How a reset with the number `seq`, in answer to `skb`, is signed; None where it is not.

    Raises Unsigned where it must not be sent.
    """
    md5_at, ao_at = _options(skb)
    if ao_at:
        return _ao_reset_signer(sk, skb, ao_at, seq)
    if sk is not None:
        auth = _auth_of(sk)
        key = md5_lookup(auth, skb.saddr) if auth is not None else None
        return None if key is None else Signer(key, key.option)
    if not md5_at:
        return None
    from usernet.transport.tcp.lookup import lookup_listener

    # The connection is lost. The peer's port is ours too, perhaps, and its listener has the key.
    start = skb.transport_header
    listener = lookup_listener(tcp, skb, int.from_bytes(skb.head[start : start + 2], "big"))
    key = md5_lookup(listener.auth, skb.saddr) if listener is not None and listener.auth is not None else None
    if key is None or not md5_good(key.key, skb, skb.head[start + 12] >> 2 & 0x3C, md5_at):
        raise Unsigned
    return Signer(key, key.option)


def _auth_of(sk: TcpSock | RequestSock | TimeWaitSock) -> Auth | None:
    from usernet.transport.tcp.request import RequestSock

    return sk.listener.auth if isinstance(sk, RequestSock) else sk.auth


def _ao_reset_signer(
    sk: TcpSock | RequestSock | TimeWaitSock | None, skb: SKBuff, ao_at: int, seq: int
) -> Signer | None:
    """Linux: tcp_ao_prepare_reset."""
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.timewait import TimeWaitSock

    auth = _auth_of(sk) if sk is not None else None
    info = auth.ao if auth is not None else None
    if sk is None or info is None:
        raise Unsigned
    keyid, rnext = skb.head[ao_at + 2], skb.head[ao_at + 3]
    if not isinstance(sk, RequestSock) and sk.state != TCP_LISTEN:
        key = info.key_of(rnext, -1)
        if key is None:
            raise Unsigned
        ours = info.rnext_key or key
        sne = info.send_sne(sk, sk.snd_nxt if isinstance(sk, TimeWaitSock) else sk.snd_una, seq)
        # Before the handshake is done there is no key of both numbers, and the reset has no number of ours.
        traffic = key.snd_other or _traffic_key(key, skb, seq, skb.seq)
        return Signer(key, key.option(rnext, ours.rcvid), traffic, sne)
    key = info.lookup(0, skb.saddr, rnext, -1)
    if key is None:
        raise Unsigned
    sne = 0
    if isinstance(sk, RequestSock):
        sisn, disn = sk.snt_isn, sk.rcv_isn
        sne = compute_sne(0, sisn, seq)
    elif skb.tcp_flags & ACK:
        # The answer to a SYN+ACK that isn't remembered: both numbers can be told from it.
        sisn, disn = (skb.ack_seq - 1) & SEQ_MASK, (skb.seq - 1) & SEQ_MASK
        sne = compute_sne(0, sisn, seq)
    else:
        # A SYN that is refused: its sender takes the reset's number for our initial one.
        sisn, disn = seq, skb.seq
    return Signer(key, key.option(rnext, keyid), _traffic_key(key, skb, sisn, disn), sne)


def _traffic_key(key: AoKey, skb: SKBuff, sisn: int, disn: int) -> bytes:
    """The traffic key of an answer to `skb`."""
    ports = skb.head[skb.transport_header : skb.transport_header + 4]
    sport, dport = int.from_bytes(ports[2:], "big"), int.from_bytes(ports[:2], "big")
    return key.traffic_key(skb.daddr, skb.saddr, sport, dport, sisn, disn)
