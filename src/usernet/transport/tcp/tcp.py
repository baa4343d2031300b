"""TCP in one namespace: its sockets, its settings, and where received segments come in (Linux: tcp_ipv4.c, tcp_v4_rcv).

Connections, requests and TIME-WAIT records are in one table, keyed by the four numbers as they stand in a received
packet: peer's address, our address, peer's port, our port, packed. So finding the owner of a segment is one slice and
one look-up, for every address family. Listeners are found by port, the best match by address and device winning.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, final

from usernet.core.sysctl import INT_MAX
from usernet.core.timer_list import TimerLists
from usernet.net.dst import Dst
from usernet.net.pernet import Net
from usernet.net.protocols import ErrorReport, Protocols
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_COMPLETE,
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    PACKET_HOST,
    SKBuff,
)
from usernet.sock.af_ops import RTN_LOCAL, AddressFamily, Flow
from usernet.sock.ports import PortTable, tcp_conflict
from usernet.transport.tcp.congestion import base as congestion
from usernet.transport.tcp.congestion.base import CongestionControl
from usernet.transport.tcp.const import (
    MSEC,
    SEQ_MASK,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_TIME_WAIT,
    between,
)
from usernet.transport.tcp.handshake import check_request, child_process, conn_request
from usernet.transport.tcp.input import rcv_established, rcv_state_process
from usernet.transport.tcp.lookup import lookup_listener, unlisten
from usernet.transport.tcp.metrics import TcpMetrics
from usernet.transport.tcp.offload import TcpOffload
from usernet.transport.tcp.request import INET_ECN_MASK, RequestSock, Sizes
from usernet.transport.tcp.settings import TcpSettings
from usernet.transport.tcp.syncookies import cookie_check
from usernet.transport.tcp.timewait import TW_ACK, TW_RST, TW_SYN, TimeWaitSock, timewait_state_process
from usernet.transport.tcp.validate import inbound_hash
from usernet.wire import checksum
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.auth import Signer
    from usernet.transport.tcp.sock import TcpSock
    from usernet.wire.tcp import TcpHeader

IPPROTO_TCP: Final = 6
TWKILL_MAX: Final = 4_000 * MSEC


def _port_conflict(sk: TcpSock, other: Any, chosen: bool) -> bool:
    """As `tcp_conflict`; a socket in repair mode has any port (Linux: SK_FORCE_REUSE)."""
    return not sk.repair and tcp_conflict(sk, other, chosen)


@final
class Tcp(TcpSettings):
    """TCP of one namespace. `table` maps the four numbers to connections, requests and TIME-WAIT records."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        self.net = net
        self.table: dict[bytes, TcpSock | RequestSock | TimeWaitSock] = {}
        self.listeners: dict[int, list[TcpSock]] = {}
        self.ports = PortTable(net, _port_conflict)
        self.metrics = TcpMetrics()
        self.orphans: set[TcpSock] = set()
        self.tw_count: int = 0
        self.request_timers = TimerLists(net.loop.timers, _request_expired)
        self.timewait_timers = TimerLists(net.loop.timers, self._timewait_expired)
        self.shared_sizes: dict[Sizes, Sizes] = {}
        self._secret: bytes = b""
        self._challenge_window: int = -1
        self._challenge_left: int = 0
        net.get(Protocols).register(IPPROTO_TCP, self)
        net.get(TcpOffload)

    def close(self) -> None:
        """The namespace ends: no timer is left."""
        for entry in list(self.table.values()):
            if type(entry) is RequestSock:
                self.request_timers.disarm(entry)
            elif type(entry) is TimeWaitSock:
                self.timewait_timers.disarm(entry)
        self.table.clear()
        self.listeners.clear()
        self.orphans.clear()

    def new_congestion_control(self, name: str = "") -> CongestionControl:
        """An instance for one connection. Raises OSError ENOENT for a name that isn't known."""
        return congestion.find(name or self.tcp_congestion_control)()

    # -- secrets

    def secret_hash(self, *parts: bytes) -> int:
        """32 bits that depend on `parts` and on what nobody else knows."""
        from hashlib import blake2s

        if not self._secret:
            self._secret = self.net.random.randbytes(32)
        return int.from_bytes(blake2s(b"".join(parts), digest_size=4, key=self._secret).digest(), "big")

    def secure_seq(self, saddr: bytes, daddr: bytes, sport: int, dport: int) -> int:
        """An initial sequence number: a secret function of the four numbers, and a clock of 64 ns (RFC 6528)."""
        ports = (sport << 16 | dport).to_bytes(4, "big")
        return (self.secret_hash(b"seq", saddr, daddr, ports) + (self.net.loop.now >> 6)) & SEQ_MASK

    def secure_ts_offset(self, saddr: bytes, daddr: bytes) -> int:
        """The origin of our time stamps towards a peer (RFC 7323 section 5.4)."""
        return self.secret_hash(b"ts", saddr, daddr) if self.tcp_timestamps == 1 else 0

    def challenge_allowed(self) -> bool:
        """The namespace's limit of challenge acknowledgements, per second (RFC 5961 section 7)."""
        limit = self.tcp_challenge_ack_limit
        if limit == INT_MAX:
            return True
        second = self.net.loop.now // (1000 * MSEC)
        if second != self._challenge_window:
            self._challenge_window = second
            half = (limit + 1) >> 1
            # A limit that can be counted from outside is a side channel: make it random.
            self._challenge_left = half + self.net.random.randrange(max(limit, 1))
        if self._challenge_left > 0:
            self._challenge_left -= 1
            return True
        return False

    # -- the tables

    def hash(self, sk: TcpSock) -> None:
        """A connection is known by its four numbers from now on (Linux: inet_ehash_insert)."""
        self.table[sk.key] = sk

    def unhash(self, sk: TcpSock) -> None:
        """Nothing happens where it isn't in a table."""
        if sk.state == TCP_LISTEN or (not sk.key and self.listeners.get(sk.num)):
            unlisten(self, sk)
        if sk.key and self.table.get(sk.key) is sk:
            del self.table[sk.key]

    def listen(self, sk: TcpSock) -> None:
        self.listeners.setdefault(sk.num, []).append(sk)

    def add_request(self, request: RequestSock) -> None:
        self.table[request.key] = request

    def forget_request(self, request: RequestSock) -> bool:
        """Take a request out of the table; whether it was there."""
        if self.table.get(request.key) is not request:
            return False
        del self.table[request.key]
        return True

    def replace_by_timewait(self, sk: TcpSock, record: TimeWaitSock, timeout: int) -> None:
        """A record takes a socket's place, in both tables (Linux: inet_twsk_hashdance)."""
        self.table[record.key] = record
        self.ports.replace(sk, record)
        sk.num = 0
        self.tw_count += 1
        # A time so short is one that the peer's time stamps made safe, in days gone by; the counter has stayed.
        if timeout <= TWKILL_MAX:
            self.net.mib.tcp_ext.TWKilled += 1
        else:
            self.net.mib.tcp_ext.TW += 1
        self.timewait_timers.arm(record, timeout, self.net.loop.now)

    def forget_timewait(self, record: TimeWaitSock) -> None:
        """The end of a record (Linux: inet_twsk_deschedule_put, inet_twsk_kill)."""
        self.timewait_timers.disarm(record)
        if self.table.get(record.key) is record:
            del self.table[record.key]
        self.ports.forget(record, record.num)
        self.tw_count -= 1

    def _timewait_expired(self, record: TimeWaitSock, now: int) -> None:
        self.forget_timewait(record)

    # -- receive

    def early_demux(self, skb: SKBuff) -> bool:
        if skb.pkt_type != PACKET_HOST:
            return False
        start = skb.transport_header
        if skb.tail < start + wire.TCP_HLEN:
            return False
        sk = self.table.get(skb.saddr + skb.daddr + skb.head[start : start + 4])
        if sk is None:
            return False
        skb.sk = sk
        state: int = sk.state
        return state == TCP_ESTABLISHED

    def _checksum_bad(self, skb: SKBuff) -> bool:
        """Whether the checksum is wrong of a packet that nobody vouches for (skbuff.py: the offload contract)."""
        length = skb.len
        total: int = skb.af.pseudo_sum(skb.saddr, skb.daddr, IPPROTO_TCP, length)
        if skb.ip_summed == CHECKSUM_COMPLETE:
            total += skb.csum
        else:
            total += checksum.csum(skb.head, skb.data, skb.tail)
            offset = skb.tail - skb.data
            for frag in skb.frags or ():
                total = checksum.csum_block_add(total, checksum.csum(frag, 0, len(frag)), offset)
                offset += len(frag)
        return checksum.csum_fold(total) != 0

    def receive(self, skb: SKBuff) -> None:
        """A segment for this machine, `data` at its header (Linux: tcp_v4_rcv)."""
        net = self.net
        mib = net.mib.tcp
        mib.InSegs += 1
        if skb.pkt_type != PACKET_HOST and skb.pkt_type != 5:
            skb.drop(DropReason.OTHERHOST, net.drops)
            return
        start = skb.data
        if skb.len - skb.data_len < wire.TCP_HLEN and not skb.may_pull(wire.TCP_HLEN):
            mib.InErrs += 1
            skb.drop(DropReason.PKT_TOO_SMALL, net.drops)
            return
        th = wire.parse(skb.head, start)
        doff = th[4]
        if doff < wire.TCP_HLEN or not (doff <= skb.len - skb.data_len or skb.may_pull(doff)):
            mib.InErrs += 1
            skb.drop(DropReason.PKT_TOO_SMALL, net.drops)
            return
        summed = skb.ip_summed
        if summed in (CHECKSUM_NONE, CHECKSUM_COMPLETE) and self._checksum_bad(skb):
            mib.InCsumErrors += 1
            mib.InErrs += 1
            if net.trace.tcp_bad_csum.probes:
                net.trace.tcp_bad_csum.fire(skb)
            skb.drop(DropReason.TCP_CSUM, net.drops)
            return
        flags = th[5]
        seq = th[2]
        skb.seq = seq
        skb.end_seq = (seq + skb.len - doff + ((flags >> 1) & 1) + (flags & 1)) & SEQ_MASK
        skb.ack_seq = th[3]
        skb.tcp_flags = flags
        entry = skb.sk
        if entry is None:
            entry = self.table.get(skb.saddr + skb.daddr + skb.head[start : start + 4])
        else:
            skb.sk = None
        if entry is None:
            entry = lookup_listener(self, skb, th[1])
            if entry is None:
                if flags & RST:
                    skb.drop(DropReason.NO_SOCKET, net.drops)
                else:
                    self.send_reset(skb, None)
                    skb.drop(DropReason.NO_SOCKET, net.drops)
                return
        state: int = entry.state
        if state == TCP_ESTABLISHED:
            sk: TcpSock = entry
            if sk.min_ttl or sk.filter is not None or sk.auth is not None:
                if not self._admitted(sk, skb, doff):
                    return
            sk.segs_in += skb.gso_segs or 1
            if skb.len > doff:
                sk.data_segs_in += skb.gso_segs or 1
            probes = net.trace.tcp_probe.probes
            if probes:
                net.trace.tcp_probe.fire(sk, skb)
            rcv_established(sk, skb, th)
            return
        if state == TCP_NEW_SYN_RECV:
            if doff > wire.TCP_HLEN or entry.used_ao or entry.listener.auth is not None:
                reason = inbound_hash(entry.listener, skb, doff, entry)
                if reason is not None:
                    skb.drop(reason, net.drops)
                    return
            child = check_request(self, entry, skb, th)
            if child is not None:
                if child.state == TCP_LISTEN:
                    self._other_state(child, skb, th, 0)
                    return
                child.segs_in += 1
                child_process(child, skb, th)
            return
        if state == TCP_TIME_WAIT:
            self._timewait(entry, skb, th)
            return
        self._other_state(entry, skb, th, 0)

    def _admitted(self, sk: TcpSock, skb: SKBuff, doff: int) -> bool:
        """IP_MINTTL, signatures and socket filters; False where the segment was dropped."""
        if sk.min_ttl and skb.af.header_of(skb)[1] < sk.min_ttl:
            self.net.mib.tcp_ext.TCPMinTTLDrop += 1
            skb.drop(DropReason.TCP_MINTTL, self.net.drops)
            return False
        if sk.auth is not None or (sk.state != TCP_ESTABLISHED and doff > wire.TCP_HLEN):
            reason = inbound_hash(sk, skb, doff)
            if reason is not None:
                skb.drop(reason, self.net.drops)
                return False
        if sk.filter is not None and not sk.filter.run(skb):
            skb.drop(DropReason.SOCKET_FILTER, self.net.drops)
            return False
        return True

    def _other_state(self, sk: TcpSock, skb: SKBuff, th: TcpHeader, isn: int) -> None:
        if not self._admitted(sk, skb, th[4]):
            return
        if sk.state != TCP_LISTEN:
            sk.segs_in += skb.gso_segs or 1
        elif th[5] & (SYN | ACK) == ACK:
            child = cookie_check(self, sk, skb, th)
            if child is None:
                return
            if child is not sk:
                child.segs_in += 1
                child_process(child, skb, th)
                return
        if rcv_state_process(sk, skb, th):
            self.send_reset(skb, sk)
            skb.drop(DropReason.TCP_RESET, self.net.drops)

    def conn_request(self, listener: TcpSock, skb: SKBuff, th: TcpHeader, isn: int = 0) -> None:
        """A SYN for a listener."""
        conn_request(self, listener, skb, th, isn)

    def _timewait(self, record: TimeWaitSock, skb: SKBuff, th: TcpHeader) -> None:
        doff, flags = th[4], th[5]
        if record.auth is not None and (flags & (SYN | ACK) != SYN or record.substate == TCP_FIN_WAIT2):
            # A new connection's SYN is the listener's to check.
            reason = inbound_hash(record, skb, doff)
            if reason is not None:
                skb.drop(reason, self.net.drops)
                return
        verdict, isn = timewait_state_process(record, skb, th)
        if verdict == TW_SYN:
            listener = lookup_listener(self, skb, th[1])
            if listener is not None:
                if not self._admitted(listener, skb, doff):
                    return
                self.forget_timewait(record)
                conn_request(self, listener, skb, th, isn)
                return
            verdict = TW_ACK
        if verdict == TW_ACK:
            record.send_ack(skb)
        elif verdict == TW_RST:
            self.send_reset(skb, record)
            self.forget_timewait(record)
        skb.consume()

    def error(self, report: ErrorReport) -> bool:
        """An ICMP error about a segment (Linux: tcp_v4_err)."""
        skb = report.skb
        start = skb.data
        if skb.len < 8:
            return False
        ports = skb.head[start : start + 4]
        # The quoted packet is ours: its source is us.
        entry = self.table.get(report.daddr + report.saddr + ports[2:4] + ports[0:2])
        if entry is None:
            return False
        seq = int.from_bytes(skb.head[start + 4 : start + 8], "big")
        if type(entry) is TimeWaitSock:
            if entry.auth is not None and entry.auth.ao is not None:
                from usernet.transport.tcp.ao import ignore_icmp

                ignore_icmp(entry, entry.auth.ao, report)
            return True
        if type(entry) is RequestSock:
            # Only what our SYN+ACK can have caused (RFC 5927).
            if seq != entry.snt_isn:
                self.net.mib.tcp_ext.OutOfWindowIcmps += 1
            elif report.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPROTO):
                entry.drop()
                self.net.mib.tcp_ext.ListenDrops += 1
            return True
        sk: TcpSock = entry
        if sk.auth is not None and sk.auth.ao is not None:
            from usernet.transport.tcp.ao import ignore_icmp

            if ignore_icmp(sk, sk.auth.ao, report):
                return True
        request = sk.tfo.fastopen_rsk
        oldest = sk.snd_una if request is None else request.snt_isn
        if sk.state != TCP_LISTEN and not between(seq, oldest, sk.snd_nxt):
            self.net.mib.tcp_ext.OutOfWindowIcmps += 1
            return True
        from usernet.transport.tcp.icmp import icmp_error

        icmp_error(sk, report, seq)
        return True

    # -- segments without a socket

    def send_segment(
        self, af: AddressFamily, header: bytes, dst: Dst, saddr: bytes, daddr: bytes, tos: int, mark: int,
        priority: int, listener: TcpSock | None = None, options: bytes = b"",
    ) -> None:  # fmt: skip
        """Send a segment that belongs to no socket; a SYN+ACK has its listener's TTL, and network options."""
        packet = SKBuff(header)
        packet.transport_header = 0
        packet.ip_summed = CHECKSUM_PARTIAL
        packet.csum_start = 0
        packet.csum_offset = wire.TCP_CHECK_OFFSET
        packet.mark = mark
        packet.priority = priority
        try:
            af.xmit_skb(packet, dst, saddr, daddr, IPPROTO_TCP, tos, 0, True, listener, options)
        except OSError:
            pass

    def send_reset(self, skb: SKBuff, sk: TcpSock | RequestSock | TimeWaitSock | None) -> None:
        """Answer a segment with a reset (RFC 9293 section 3.10.7.1; Linux: tcp_v4_send_reset). sk: whose segment it is;
        what can't be signed as it must be is not sent."""
        flags = skb.tcp_flags
        af: AddressFamily = skb.af
        if flags & RST or af.addr_type(skb.daddr) != RTN_LOCAL:
            return
        start = skb.transport_header
        ports = skb.head[start : start + 4]
        sport = int.from_bytes(ports[2:4], "big")
        dport = int.from_bytes(ports[0:2], "big")
        if flags & ACK:
            seq, ack, out = skb.ack_seq, 0, RST
        else:
            seq, ack, out = 0, skb.end_seq, RST | ACK
        # As the segment that it answers (Linux: ip_send_unicast_reply).
        tos: int = af.header_of(skb)[0] & ~INET_ECN_MASK
        mark = sk.mark if sk is not None else 0
        oif = sk.bound_dev_if if sk is not None else 0
        try:
            dst = af.route(Flow(skb.saddr, skb.daddr, IPPROTO_TCP, oif, tos, mark, sport, dport))
        except OSError:
            return
        from usernet.transport.tcp.auth_reply import Unsigned, reset_signer

        try:
            how = reset_signer(self, sk, skb, seq)
        except Unsigned:
            return
        option = b"" if how is None else how.option
        check = af.pseudo_sum(skb.daddr, skb.saddr, IPPROTO_TCP, wire.TCP_HLEN + len(option))
        header = wire.build(sport, dport, seq, ack, out, 0, check, 0, option)
        if how is not None:
            header = how.sign(header, wire.TCP_HLEN, skb.daddr, skb.saddr)
        mib = self.net.mib.tcp
        mib.OutSegs += 1
        mib.OutRsts += 1
        trace = self.net.trace.tcp_send_reset
        if trace.probes:
            trace.fire(sk, skb)
        self.send_segment(af, header, dst, skb.daddr, skb.saddr, tos, mark, 0)

    def send_reply_ack(
        self, af: AddressFamily, saddr: bytes, daddr: bytes, sport: int, dport: int, seq: int, ack: int, window: int,
        tstamp_ok: bool, ts_offset: int, ts_recent: int, tos: int, mark: int, oif: int, how: Signer | None,
    ) -> None:  # fmt: skip
        """Send a bare acknowledgement for a request or a TIME-WAIT record (Linux: tcp_v4_send_ack). how: its signature,
        None for none."""
        try:
            dst = af.route(Flow(daddr, saddr, IPPROTO_TCP, oif, tos, mark, sport, dport))
        except OSError:
            return
        stamps = ((self.net.loop.now // MSEC + ts_offset) & SEQ_MASK, ts_recent) if tstamp_ok else None
        options = wire.build_sack((), stamps)
        at = wire.TCP_HLEN + len(options)
        if how is not None:
            options += how.option
        check = af.pseudo_sum(saddr, daddr, IPPROTO_TCP, wire.TCP_HLEN + len(options))
        header = wire.build(sport, dport, seq, ack, ACK, min(window, 65535), check, 0, options)
        if how is not None:
            header = how.sign(header, at, saddr, daddr)
        self.net.mib.tcp.OutSegs += 1
        self.send_segment(af, header, dst, saddr, daddr, tos, mark, 0)


def _request_expired(request: RequestSock, now: int) -> None:
    request.expire()
