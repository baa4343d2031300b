"""Checking what is received against the keys for its sender (Linux: tcp_inbound_hash, tcp_inbound_ao_hash).

This comes before anything else is made of a segment, so that a forged one, a reset above all, has no effect but a
counter's. A segment is dropped that is

    signed in both ways, twice, or malformed                      TCP_AUTH_HDR
    unsigned, of a peer with a key                                TCP_AONOTFOUND, TCP_MD5NOTFOUND
    signed, of a peer without one                                 TCP_AOUNEXPECTED, TCP_MD5UNEXPECTED
    signed by a key id that isn't known                           TCP_AOKEYNOTFOUND
    signed wrongly, or in a handshake that began otherwise        TCP_AOFAILURE, TCP_MD5FAILURE

Linux lets TIME-WAIT answer what it has not checked. RFC 5925 section 7.2 makes no such difference, and neither is one
made here: a record in TIME-WAIT checks as its connection did.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from usernet.skbuff.dropreason import DropReason
from usernet.transport.tcp.ao import AO_HLEN, AoInfo, AoKey, ao_code, ao_required, compute_sne
from usernet.transport.tcp.const import SEQ_MASK, TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT
from usernet.transport.tcp.md5 import md5_digest, md5_lookup
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, RST, SYN

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.timewait import TimeWaitSock


def payload_of(skb: SKBuff, doff: int) -> Iterator[bytes | memoryview]:
    """What follows the header of a received segment, piece by piece."""
    start = skb.transport_header + doff
    if skb.tail > start:
        yield memoryview(skb.head)[start : skb.tail]
    yield from skb.frags or ()


def inbound_hash(
    sk: TcpSock | TimeWaitSock, skb: SKBuff, doff: int, request: RequestSock | None = None
) -> DropReason | None:
    """Why a segment must be dropped for its signature or for its lack of one; None where it is good.

    sk: the connection, the record, or the listener, with the `request` where there is one. `skb` has its header in the
    linear part, and its addresses and numbers are set.
    """
    start = skb.transport_header
    auth = sk.auth
    found = wire.parse_auth_options(skb.head, start + wire.TCP_HLEN, start + doff)
    net = sk.tcp.net
    if found is None:
        if net.trace.tcp_hash_bad_header.probes:
            net.trace.tcp_hash_bad_header.fire(sk, skb)
        return DropReason.TCP_AUTH_HDR
    md5_at, ao_at = found
    if request is not None and request.used_ao != bool(ao_at):
        net.mib.tcp_ext.TCPAOBad += 1
        if net.trace.tcp_ao_handshake_failure.probes:
            ids = _ids(skb, ao_at) if ao_at else (0, 0, 0)
            net.trace.tcp_ao_handshake_failure.fire(sk, skb, *ids)
        return DropReason.TCP_AOFAILURE
    if ao_at:
        return _inbound_ao(sk, skb, doff, ao_at, request)
    if md5_at:
        return _inbound_md5(sk, skb, doff, md5_at)
    if auth is None:
        return None
    if ao_required(sk, auth, skb.saddr, 0, True):
        if net.trace.tcp_hash_ao_required.probes:
            net.trace.tcp_hash_ao_required.fire(sk, skb)
        return DropReason.TCP_AONOTFOUND
    if md5_lookup(auth, skb.saddr) is not None:
        net.mib.tcp_ext.TCPMD5NotFound += 1
        if net.trace.tcp_hash_md5_required.probes:
            net.trace.tcp_hash_md5_required.fire(sk, skb)
        return DropReason.TCP_MD5NOTFOUND
    return None


def _ids(skb: SKBuff, ao_at: int) -> tuple[int, int, int]:
    """KeyID, RNextKeyID, and the bytes of the code."""
    head = skb.head
    return head[ao_at + 2], head[ao_at + 3], head[ao_at + 1] - AO_HLEN


def _inbound_md5(sk: TcpSock | TimeWaitSock, skb: SKBuff, doff: int, md5_at: int) -> DropReason | None:
    """Linux: tcp_inbound_md5_hash."""
    net = sk.tcp.net
    key = md5_lookup(sk.auth, skb.saddr) if sk.auth is not None else None
    if key is None:
        net.mib.tcp_ext.TCPMD5Unexpected += 1
        if net.trace.tcp_hash_md5_unexpected.probes:
            net.trace.tcp_hash_md5_unexpected.fire(sk, skb)
        return DropReason.TCP_MD5UNEXPECTED
    if not md5_good(key.key, skb, doff, md5_at):
        net.mib.tcp_ext.TCPMD5Failure += 1
        if net.trace.tcp_hash_md5_mismatch.probes:
            net.trace.tcp_hash_md5_mismatch.fire(sk, skb)
        return DropReason.TCP_MD5FAILURE
    return None


def md5_good(key: bytes, skb: SKBuff, doff: int, md5_at: int) -> bool:
    """Whether the digest at `md5_at` is the one of the segment."""
    start = skb.transport_header
    header = skb.head[start : start + wire.TCP_HLEN]
    length = skb.len + skb.data - start
    from hmac import compare_digest

    digest = md5_digest(key, skb.saddr, skb.daddr, header, payload_of(skb, doff), length)
    return compare_digest(digest, skb.head[md5_at + 2 : md5_at + wire.TCPOLEN_MD5SIG])


def _inbound_ao(
    sk: TcpSock | TimeWaitSock, skb: SKBuff, doff: int, ao_at: int, request: RequestSock | None
) -> DropReason | None:
    """Linux: tcp_inbound_ao_hash."""
    keyid, rnext, maclen = _ids(skb, ao_at)
    net = sk.tcp.net
    info = sk.auth.ao if sk.auth is not None else None
    if info is None:
        net.mib.tcp_ext.TCPAOKeyNotFound += 1
        if net.trace.tcp_ao_key_not_found.probes:
            net.trace.tcp_ao_key_not_found.fire(sk, skb, keyid, rnext, maclen)
        return DropReason.TCP_AOUNEXPECTED
    state = sk.state
    if state == TCP_CLOSE:
        return DropReason.TCP_CLOSE
    handshake = state in (TCP_LISTEN, TCP_SYN_SENT)
    if handshake:
        key = info.lookup(0, skb.saddr, -1, keyid)
    else:
        key = info.rnext_key
        if key is None or key.rcvid != keyid:
            key = info.key_of(-1, keyid)
    if key is None:
        net.mib.tcp_ext.TCPAOKeyNotFound += 1
        info.key_not_found += 1
        if net.trace.tcp_ao_key_not_found.probes:
            net.trace.tcp_ao_key_not_found.fire(sk, skb, keyid, rnext, maclen)
        return DropReason.TCP_AOKEYNOTFOUND
    flags = skb.tcp_flags
    seq = skb.seq
    sne = 0
    if flags & (SYN | ACK) == SYN:
        # Of a retransmitted one, too.
        traffic = _traffic_key(key, skb, seq, 0)
    elif not handshake:
        sne = info.receive_sne(sk, sk.rcv_nxt, seq)
        traffic = key.rcv_other
    elif state == TCP_LISTEN:
        if request is not None:
            sne = compute_sne(0, request.rcv_isn, seq)
            traffic = _traffic_key(key, skb, request.rcv_isn, request.snt_isn)
        elif flags & ACK and not flags & SYN:
            # Perhaps the answer to a SYN cookie.
            isn = (seq - 1) & SEQ_MASK
            sne = compute_sne(0, isn, seq)
            traffic = _traffic_key(key, skb, isn, (skb.ack_seq - 1) & SEQ_MASK)
        else:
            # No way to know the initial numbers.
            return DropReason.TCP_FLAGS
    else:
        # SYN-SENT. A refusal of the SYN has no initial number but its own.
        traffic = _traffic_key(key, skb, seq if flags & (SYN | RST) else info.risn, info.lisn)
    reason = _verify(sk, skb, doff, ao_at, info, key, traffic, sne)
    current = info.current_key
    if reason is None and not handshake and flags & (SYN | ACK) != SYN and current is not None:
        if rnext != current.sndid:
            # The peer asks for another key; for one that isn't there, nothing changes (RFC 5925 section 7.5.2).
            if net.trace.tcp_ao_rnext_request.probes:
                net.trace.tcp_ao_rnext_request.fire(sk, skb, current.sndid, rnext, maclen)
            info.current_key = info.key_of(rnext, -1) or current
    return reason


def _traffic_key(key: AoKey, skb: SKBuff, sisn: int, disn: int) -> bytes:
    """The traffic key that the sender of a segment used (Linux: tcp_ao_calc_key_skb)."""
    ports = skb.head[skb.transport_header : skb.transport_header + 4]
    sport, dport = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
    return key.traffic_key(skb.saddr, skb.daddr, sport, dport, sisn, disn)


def _verify(
    sk: TcpSock | TimeWaitSock, skb: SKBuff, doff: int, ao_at: int, info: AoInfo, key: AoKey, traffic: bytes, sne: int
) -> DropReason | None:
    """Compare the code with what it should be, and count (Linux: tcp_ao_verify_hash)."""
    net = sk.tcp.net
    keyid, rnext, maclen = _ids(skb, ao_at)
    trace = net.trace.tcp_ao_wrong_maclen
    if maclen == key.maclen:
        start = skb.transport_header
        header = skb.head[start : start + doff]
        at = ao_at - start + AO_HLEN
        length = skb.len + skb.data - start
        code = ao_code(key, traffic, sne, skb.saddr, skb.daddr, header, at, payload_of(skb, doff), length)
        from hmac import compare_digest

        if compare_digest(code, header[at : at + maclen]):
            net.mib.tcp_ext.TCPAOGood += 1
            info.pkt_good += 1
            key.pkt_good += 1
            return None
        trace = net.trace.tcp_ao_mismatch
    net.mib.tcp_ext.TCPAOBad += 1
    info.pkt_bad += 1
    key.pkt_bad += 1
    if trace.probes:
        trace.fire(sk, skb, keyid, rnext, maclen)
    return DropReason.TCP_AOFAILURE
