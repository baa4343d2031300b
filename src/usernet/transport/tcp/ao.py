"""The TCP Authentication Option: master key tuples and what a connection knows of them (RFC 5925; Linux: tcp_ao.c).

Every segment brings the id of the key it is signed with, the id of the key its sender would like to be answered with,
and a message authentication code over the sequence number's upper half (SNE), the pseudo header, the TCP header with
its options, and the data. A master key tuple (MKT, here `AoKey`) says for which peers it is, by which ids it goes (what
is sent with `sndid` comes in with the peer's `rcvid`), and which algorithm is used. From it, and from addresses, ports
and initial sequence numbers, come the traffic keys: two for each connection, one a direction, and one for a SYN, which
knows the peer's initial sequence number no more than as 0.

    current key   what is sent is signed with it; changes when the peer asks for another (its RNextKeyID)
    rnext key     what we ask the peer to use; changes when the application says so

A connection is one of TCP-AO from its SYN on, or never. Keys are the application's: it sets them on sockets
(ao_sockopt.py), those of a listener are inherited.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

from usernet.sock.errqueue import SO_EE_ORIGIN_ICMP6
from usernet.transport.tcp.ao_crypto import Algorithm, kdf_context, traffic_key
from usernet.transport.tcp.auth_keys import Auth, pseudo_header, same_network
from usernet.transport.tcp.const import TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT
from usernet.wire.tcp import TCP_HLEN, TCPOPT_AO, TCPOPT_NOP

if TYPE_CHECKING:
    from usernet.net.protocols import ErrorReport
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.timewait import TimeWaitSock

TCP_AO_KEYF_IFINDEX: Final = 1
TCP_AO_KEYF_EXCLUDE_OPT: Final = 2
AO_HLEN: Final = 4
"""Bytes of the option before its code: kind, length, KeyID, RNextKeyID."""
AO_KEY_SIZE: Final = 168
"""Bytes of option memory a key takes, its two traffic keys not counted: the size of Linux's `struct tcp_ao_key`."""

# Destination unreachable: protocol, port, fragmentation needed; administratively prohibited and port, of ICMPv6.
_HARD_ERRORS: Final[dict[int, tuple[int, ...]]] = {3: (2, 3, 4)}
_HARD_ERRORS6: Final[dict[int, tuple[int, ...]]] = {1: (1, 4)}


@final
class AoKey:
    """A master key tuple (RFC 5925 section 3.1). master: the key that traffic keys come from; key_flags: TCP_AO_KEYF_*.

    snd_other, rcv_other: the traffic keys of both directions of a connection, once both initial numbers are known.
    """

    __slots__ = (
        "address", "algorithm", "key_flags", "l3index", "maclen", "master", "pkt_bad", "pkt_good", "prefix",
        "rcv_other", "rcvid", "snd_other", "sndid",
    )  # fmt: skip

    def __init__(
        self, address: bytes, prefix: int, sndid: int, rcvid: int, algorithm: Algorithm, master: bytes, maclen: int,
        key_flags: int,
    ) -> None:  # fmt: skip
        self.address = address
        self.prefix = prefix
        self.sndid = sndid
        self.rcvid = rcvid
        self.algorithm = algorithm
        self.master = master
        self.maclen = maclen
        self.key_flags = key_flags
        self.l3index: int = 0
        self.pkt_good: int = 0
        self.pkt_bad: int = 0
        self.snd_other: bytes = b""
        self.rcv_other: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of the option, padded (Linux: tcp_ao_len_aligned)."""
        return AO_HLEN + self.maclen + 3 & ~3

    @property
    def omem(self) -> int:
        """Linux: tcp_ao_sizeof_key."""
        return AO_KEY_SIZE + 2 * self.algorithm.digest_size

    def option(self, keyid: int, rnext: int) -> bytes:
        """The option, its code still to come, at byte 4; padded."""
        length = AO_HLEN + self.maclen
        return bytes((TCPOPT_AO, length, keyid, rnext)) + bytes(self.maclen) + bytes((TCPOPT_NOP,)) * (-length & 3)

    def copy(self) -> AoKey:
        return AoKey(
            self.address, self.prefix, self.sndid, self.rcvid, self.algorithm, self.master, self.maclen, self.key_flags
        )

    def traffic_key(self, saddr: bytes, daddr: bytes, sport: int, dport: int, sisn: int, disn: int) -> bytes:
        """The traffic key of one direction, as its sender sees it (Linux: tcp_v4_ao_calc_key)."""
        return traffic_key(self.algorithm, self.master, kdf_context(saddr, daddr, sport, dport, sisn, disn))

    def matches(self, l3index: int, address: bytes, prefix: int, sndid: int, rcvid: int) -> bool:
        """Whether it is for the peers of a network, and has these ids; -1 for any (Linux: tcp_ao_key_cmp)."""
        if (sndid >= 0 and self.sndid != sndid) or (rcvid >= 0 and self.rcvid != rcvid):
            return False
        if l3index >= 0 and self.key_flags & TCP_AO_KEYF_IFINDEX and self.l3index != l3index:
            return False
        if len(self.address) != len(address):
            return False
        # The address of all zeros is of everyone.
        return not any(self.address) or not any(address) or same_network(self.address, address, prefix)


@final
class AoInfo:
    """TCP-AO on one socket (Linux: `struct tcp_ao_info`).

    lisn, risn: our initial sequence number and the peer's. snd_sne, rcv_sne: the upper 32 bits of what is sent and
    received (RFC 5925 section 6.2), as of `snd_seen` and `rcv_seen`.
    """

    __slots__ = (
        "accept_icmps", "ao_required", "current_key", "dropped_icmp", "key_not_found", "keys", "lisn", "pkt_bad",
        "pkt_good", "pkt_required", "rcv_seen", "rcv_sne", "risn", "rnext_key", "snd_seen", "snd_sne",
    )  # fmt: skip

    def __init__(self) -> None:
        self.keys: list[AoKey] = []  # the newest first
        self.current_key: AoKey | None = None
        self.rnext_key: AoKey | None = None
        self.ao_required: bool = False
        self.accept_icmps: bool = False
        self.pkt_good: int = 0
        self.pkt_bad: int = 0
        self.key_not_found: int = 0
        self.pkt_required: int = 0
        self.dropped_icmp: int = 0
        self.lisn: int = 0
        self.risn: int = 0
        self.snd_sne: int = 0
        self.rcv_sne: int = 0
        self.snd_seen: int = 0
        self.rcv_seen: int = 0

    def key_of(self, sndid: int, rcvid: int) -> AoKey | None:
        """A key by its ids, -1 for any (Linux: tcp_ao_established_key)."""
        for key in self.keys:
            if (sndid < 0 or key.sndid == sndid) and (rcvid < 0 or key.rcvid == rcvid):
                return key
        return None

    def lookup(self, l3index: int, address: bytes, sndid: int, rcvid: int, prefix: int = 255) -> AoKey | None:
        """A key for a peer (Linux: tcp_ao_do_lookup)."""
        for key in self.keys:
            if key.matches(l3index, address, min(prefix, key.prefix), sndid, rcvid):
                return key
        return None

    def start_sending(self, isn: int) -> None:
        self.lisn = self.snd_seen = isn
        self.snd_sne = 0

    def start_receiving(self, isn: int) -> None:
        self.risn = self.rcv_seen = isn
        self.rcv_sne = 0

    def send_sne(self, sk: TcpSock | TimeWaitSock, snd_una: int, seq: int) -> int:
        """The upper half of a sequence number that is sent, `snd_una` being what is acknowledged.

        Nothing in the way of an acknowledgement counts the turns of `snd_una`: what went round since a segment was last
        signed is seen here, for no more than half of the numbers lie between two segments.
        """
        if snd_una < self.snd_seen:
            self.snd_sne = self.snd_sne + 1 & 0xFFFFFFFF
            trace = sk.tcp.net.trace.tcp_ao_snd_sne_update
            if trace.probes:
                trace.fire(sk, self.snd_sne)
        self.snd_seen = snd_una
        return compute_sne(self.snd_sne, snd_una, seq)

    def receive_sne(self, sk: TcpSock | TimeWaitSock, rcv_nxt: int, seq: int) -> int:
        """The same for one that is received, `rcv_nxt` being what is expected."""
        if rcv_nxt < self.rcv_seen:
            self.rcv_sne = self.rcv_sne + 1 & 0xFFFFFFFF
            trace = sk.tcp.net.trace.tcp_ao_rcv_sne_update
            if trace.probes:
                trace.fire(sk, self.rcv_sne)
        self.rcv_seen = rcv_nxt
        return compute_sne(self.rcv_sne, rcv_nxt, seq)

    def cache_traffic_keys(self, sk: TcpSock, key: AoKey) -> None:
        """Both directions' traffic keys, from both initial numbers (Linux: tcp_ao_cache_traffic_keys)."""
        saddr, daddr, sport, dport = sk.saddr, sk.daddr, sk.sport, sk.dport
        key.snd_other = key.traffic_key(saddr, daddr, sport, dport, self.lisn, self.risn)
        key.rcv_other = key.traffic_key(daddr, saddr, dport, sport, self.risn, self.lisn)


def compute_sne(sne: int, basis: int, seq: int) -> int:
    """The upper half that belongs to `seq`, within half of all numbers from `basis`, whose upper half is `sne`
    (RFC 5925 section 6.2; Linux: tcp_ao_compute_sne)."""
    if (seq - basis) & 0x80000000:
        if seq > basis:
            return sne - 1 & 0xFFFFFFFF
    elif seq < basis:
        return sne + 1 & 0xFFFFFFFF
    return sne


def ao_code(
    key: AoKey, traffic: bytes, sne: int, saddr: bytes, daddr: bytes, header: bytes, at: int,
    payload: Iterable[bytes | memoryview], length: int,
) -> bytes:  # fmt: skip
    """The code of a segment (RFC 5925 section 5.1; Linux: tcp_ao_hash_skb).

    traffic: the traffic key. header: the TCP header with its options; at: where in it the code lies, which counts as
    zeros; length: of the whole segment. TCP_AO_KEYF_EXCLUDE_OPT leaves out all options but this one.
    """
    parts: list[bytes | memoryview] = [sne.to_bytes(4, "big"), pseudo_header(saddr, daddr, length)]
    code = bytes(key.maclen)
    if key.key_flags & TCP_AO_KEYF_EXCLUDE_OPT:
        parts.append(header[:16] + b"\0\0" + header[18:TCP_HLEN] + header[at - AO_HLEN : at] + code)
    else:
        parts.append(header[:16] + b"\0\0" + header[18:at] + code + header[at + key.maclen :])
    parts += payload
    return key.algorithm.mac(traffic, b"".join(parts))[: key.maclen]


def ao_required(sk: TcpSock | TimeWaitSock, auth: Auth, peer: bytes, l3index: int, count: bool) -> bool:
    """Whether a segment of `peer` must be signed, or a key of TCP MD5 for it be refused (Linux: tcp_ao_required)."""
    info = auth.ao
    if info is None or not (info.ao_required or info.lookup(l3index, peer, -1, -1) is not None):
        return False
    if count:
        sk.tcp.net.mib.tcp_ext.TCPAORequired += 1
        info.pkt_required += 1
    return True


def ignore_icmp(sk: TcpSock | TimeWaitSock, info: AoInfo, report: ErrorReport) -> bool:
    """Whether an ICMP message must not harm a signed connection: a hard error, which anyone can forge (RFC 5925
    section 7.8; Linux: tcp_ao_ignore_icmp). Those of a handshake still can."""
    if info.accept_icmps or sk.state in (TCP_SYN_SENT, TCP_SYN_RECV, TCP_LISTEN):
        return False
    hard = _HARD_ERRORS6 if report.origin == SO_EE_ORIGIN_ICMP6 else _HARD_ERRORS
    if report.icmp_code not in hard.get(report.icmp_type, ()):
        return False
    sk.tcp.net.mib.tcp_ext.TCPAODroppedIcmps += 1
    info.dropped_icmp += 1
    return True


def connect_init(sk: TcpSock, info: AoInfo) -> int:
    """A connect(): keep the keys of this peer, and begin with the newest of them where the application chose none.
    Returns the bytes that the option will take (Linux: tcp_ao_connect_init)."""
    for key in list(info.keys):
        if not key.matches(0, sk.daddr, key.prefix, -1, -1):
            info.keys.remove(key)
            sk.omem_alloc -= key.omem
            if info.current_key is key:
                info.current_key = None
            if info.rnext_key is key:
                info.rnext_key = None
    first = info.keys[0]
    info.current_key = info.current_key or first
    info.rnext_key = info.rnext_key or first
    info.start_sending(sk.write_seq)
    return first.size


def finish_connect(sk: TcpSock, info: AoInfo, isn: int) -> None:
    """The peer's initial number is known (Linux: tcp_ao_finish_connect)."""
    info.start_receiving(isn)
    for key in info.keys:
        info.cache_traffic_keys(sk, key)


def inherit(auth: Auth, child: TcpSock, request: RequestSock, info: AoInfo) -> None:
    """A listener's keys for a connection's peer, of which there is one at least, become the connection's (Linux:
    tcp_ao_copy_all_matching)."""
    ours = auth.ao = AoInfo()
    ours.start_sending(request.snt_isn)
    ours.start_receiving(request.rcv_isn)
    ours.ao_required = info.ao_required
    ours.accept_icmps = info.accept_icmps
    for key in info.keys:
        if key.matches(0, child.daddr, key.prefix, -1, -1):
            copy = key.copy()
            ours.cache_traffic_keys(child, copy)
            ours.keys.insert(0, copy)
            child.omem_alloc += copy.omem
    ours.current_key = ours.key_of(request.ao_keyid, -1) or ours.keys[0]
    ours.rnext_key = ours.key_of(-1, request.ao_rcv_next) or ours.keys[0]
