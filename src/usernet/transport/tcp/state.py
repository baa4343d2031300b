"""The state of a TCP socket (Linux: `struct tcp_sock`, `struct inet_connection_sock`).

One object holds it all, as in Linux, its attributes in the order of how often they are needed. Sequence numbers are 32
bits and wrap. Windows are in bytes, `snd_cwnd` and all that counts packets in packets; times in ns, those named _us in
µs (`srtt_us` eightfold, `mdev_us` fourfold, as in Linux).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from usernet.core.timer import Timer
from usernet.net.pernet import Net
from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import AddressFamily
from usernet.sock.inet import InetSock
from usernet.sock.sock import SOCK_STREAM
from usernet.transport.tcp.calls import (
    SS_UNCONNECTED,
)
from usernet.transport.tcp.congestion.base import CongestionControl, mark_capable
from usernet.transport.tcp.congestion.minmax import WindowedMax
from usernet.transport.tcp.const import (
    MDEV_INIT_US,
    SEC,
    TCP_CA_OPEN,
    TCP_DEFAULT_SCALING_RATIO,
    TCP_INFINITE_SSTHRESH,
    TCP_MSS_DEFAULT,
    TCP_TIMEOUT_INIT,
)
from usernet.transport.tcp.mtup import NO_PROBING, MtuProbe
from usernet.transport.tcp.parts import (
    DEFAULT_PARAMS,
    NO_FASTOPEN,
    NO_REORDERING,
    NO_TIMEOUTS,
    NOT_LISTENING,
    FastopenState,
    RackReordering,
    RequestSockQueue,
    RtoStats,
    TcpParams,
)
from usernet.transport.tcp.segment import SentQueue
from usernet.transport.tcp.tcp import Tcp

if TYPE_CHECKING:
    from usernet.transport.tcp.accecn import EcnState
    from usernet.transport.tcp.auth_keys import Auth
    from usernet.transport.tcp.cwv import CwndValidation
    from usernet.transport.tcp.sock import TcpSock

IPPROTO_TCP = 6
LONG_AGO: Final = -SEC
"""Before anything happened (ns)."""


class TcpState(InetSock):
    """What `TcpSock` is made of."""

    __slots__: tuple[str, ...] = (
        "ack_ato", "ack_lrcvtime", "ack_pending", "ack_pingpong", "ack_quick", "advmss", "app_limited", "auth",
        "backoff", "buffers_ready", "bytes_acked", "bytes_received", "bytes_retrans", "bytes_sent", "ca", "ca_ready",
        "ca_state", "chrono_start", "chrono_stat", "chrono_type", "comp_sack_timer", "compressed_ack",
        "compressed_ack_rcv_nxt", "copied_seq", "cwnd_usage_seq", "cwv", "data_segs_in", "data_segs_out",
        "delack_timer", "delivered", "delivered_ce", "delivered_mstamp", "dsack_dups", "dst_quick_ack",
        "dup_ack_counter", "duplicate_sack", "ecn", "ecn_flags", "fastopen_pending", "fin_received", "first_tx_mstamp",
        "frto", "high_seq", "highest_sack", "icsk_pending", "icsk_retransmits", "is_cwnd_limited", "is_sack_reneg",
        "keepalive_timer", "key", "last_oow_ack_time", "last_seg_size", "listener", "lost", "lost_out", "lsndtime",
        "max_packets_out", "max_window", "mdev_max_us", "mdev_us", "mss_cache", "mss_clamp", "mtup", "nonagle",
        "nospace", "notsent_lowat", "ofo", "pacing_timer", "packets_out", "page", "page_used", "params", "pmtu_cookie",
        "pred_ok", "prior_cwnd", "prior_ssthresh", "probes_out", "probes_tstamp", "prr_delivered", "prr_out",
        "pseudo_base", "pushed_seq", "rack_advanced", "rack_end_seq", "rack_mstamp", "rack_reo", "rack_rtt_us",
        "rate_app_limited", "rate_delivered", "rate_interval", "rcv_mss", "rcv_nxt", "rcv_ooopack", "rcv_promised",
        "rcv_rtt_last_tsecr", "rcv_rtt_seq", "rcv_rtt_time", "rcv_rtt_us", "rcv_ssthresh", "rcv_tstamp", "rcv_wnd",
        "rcv_wscale", "rcv_wup", "rcvq_mstamp", "rcvq_seq", "rcvq_space", "read_stamp", "recv_sack_cache", "reord_seen",
        "reordering", "repair", "repair_queue", "request_queue", "retrans_out", "retrans_stamp", "retransmit_hint",
        "retransmit_timer", "rto", "rto_max", "rto_min", "rto_stats", "rtt_min", "rtt_seq", "rttvar_us", "rtx_queue",
        "rx_sacks", "rx_tsecr", "rx_tsval", "sack_ok", "sacked_out", "saved_syn", "saw_tstamp", "scaling_ratio",
        "segs_in", "segs_out", "selective_acks", "sent", "snd_cwnd", "snd_cwnd_clamp", "snd_cwnd_cnt", "snd_cwnd_stamp",
        "snd_cwnd_used", "snd_nxt", "snd_sml", "snd_ssthresh", "snd_una", "snd_up", "snd_wl1", "snd_wnd", "snd_wscale",
        "srtt_us", "ss_state", "synack_mstamp", "tcp", "tcp_header_len", "tfo", "timeout_rehash", "tlp_high_seq",
        "tlp_retrans", "total_retrans", "ts_recent", "ts_recent_stamp", "tsoffset", "tsq_throttled", "tstamp_ok",
        "tx_marks", "undo_active", "undo_marker", "undo_retrans", "urg_data", "urg_mode", "urg_seq", "window_clamp",
        "write_queue", "write_seq", "wscale_ok", "wstamp",
    )  # fmt: skip

    def __init__(self, net: Net, af: AddressFamily) -> None:
        super().__init__(net, af, SOCK_STREAM, IPPROTO_TCP)
        tcp = net.get(Tcp)
        self.tcp = tcp
        timers = net.loop.timers
        # Functions of the class, not bound methods: those would be objects of each socket's own.
        kind = type(self)
        # What a received segment looks at, in few cache lines: compiled, attributes lie in the order in which they
        # stand here (Linux: the cacheline groups of `struct tcp_sock`). Truth values, a byte each, end each group.
        self.rcv_nxt: int = 0
        self.rcv_wup: int = 0
        self.rcv_wnd: int = 0
        self.rcv_wscale: int = 0
        self.rcv_promised: int = -1
        """The right edge of a window that was taken back; -1 for none."""
        self.window_clamp: int = 0
        self.rcv_ssthresh: int = 0
        self.scaling_ratio: int = TCP_DEFAULT_SCALING_RATIO
        self.advmss: int = 65535
        self.copied_seq: int = 0
        self.snd_una: int = 0
        self.snd_nxt: int = 0
        self.snd_wnd: int = 0
        self.snd_wl1: int = 0
        self.snd_wscale: int = 0
        self.tcp_header_len: int = 20
        self.pseudo_base: int = 0
        self.ts_recent: int = 0
        self.ts_recent_stamp: int = 0
        self.tsoffset: int = 0
        self.rx_tsval: int = 0
        self.rx_tsecr: int = 0
        self.rcv_tstamp: int = 0
        self.ack_pending: int = 0
        self.ack_quick: int = 0
        self.ack_pingpong: int = 0
        self.ack_ato: int = 0
        self.ack_lrcvtime: int = 0
        self.rcv_mss: int = TCP_MSS_DEFAULT
        self.last_seg_size: int = 0
        self.compressed_ack: int = 0
        self.delack_timer = Timer(timers, kind._on_delack_timer, self)
        self.rto_min: int = tcp.tcp_rto_min_us
        self.rcv_rtt_us: int = 0
        self.rcv_rtt_seq: int = 0
        self.rcv_rtt_time: int = 0
        self.rcv_rtt_last_tsecr: int = 0
        self.rcvq_mstamp: int = 0
        self.read_stamp: int = 0
        """When what a call reads from came, where it is to be told (SO_TIMESTAMP and its like)."""
        self.segs_in: int = 0
        self.segs_out: int = 0
        self.data_segs_in: int = 0
        self.bytes_received: int = 0
        self.urg_data: int = 0
        self.ecn_flags: int = 0
        self.auth: Auth | None = None
        """Keys of TCP MD5 and TCP-AO (auth.py); None where nothing is signed."""
        self.params: TcpParams = DEFAULT_PARAMS
        self.ofo: list[SKBuff] | None = None
        self.selective_acks: tuple[tuple[int, int], ...] = ()
        self.duplicate_sack: tuple[int, int] | None = None
        self.tstamp_ok: bool = False
        self.saw_tstamp: bool = False
        self.pred_ok: bool = False
        self.dst_quick_ack: bool = False
        self.repair: bool = False
        self.urg_mode: bool = False
        self.nospace: bool = False
        # What sending adds to that, and being acknowledged: what is to be sent, and what was; the window; round trips
        # and time-outs; the rate of delivery.
        self.write_seq: int = 0
        self.write_queue = SKBuffQueue()
        self.rtx_queue = SKBuffQueue()
        self.sent = SentQueue()
        self.page: bytearray | None = None
        self.page_used: int = 0
        self.snd_sml: int = 0
        self.pushed_seq: int = 0
        self.nonagle: int = 0
        self.max_window: int = 0
        self.mss_cache: int = TCP_MSS_DEFAULT
        self.pmtu_cookie: int = 0
        self.mtup: MtuProbe = NO_PROBING
        self.packets_out: int = 0
        self.sacked_out: int = 0
        self.lost_out: int = 0
        self.retrans_out: int = 0
        self.lost: int = 0
        self.snd_cwnd: int = 10
        self.snd_cwnd_used: int = 0
        self.snd_cwnd_stamp: int = 0
        self.snd_ssthresh: int = TCP_INFINITE_SSTHRESH
        self.max_packets_out: int = 0
        self.cwnd_usage_seq: int = 0
        self.cwv: CwndValidation | None = None
        self.ca: CongestionControl = tcp.new_congestion_control()
        self.ca_state: int = TCP_CA_OPEN
        self.high_seq: int = 0
        self.highest_sack: SKBuff | None = None
        self.retransmit_hint: SKBuff | None = None
        self.srtt_us: int = 0
        self.mdev_us: int = MDEV_INIT_US
        self.mdev_max_us: int = 0
        self.rttvar_us: int = 0
        self.rtt_seq: int = 0
        self.rtt_min: WindowedMax = WindowedMax(0, -0xFFFFFFFF)
        """Of the round trips' negatives (µs)."""
        self.rto: int = TCP_TIMEOUT_INIT
        self.rto_max: int = tcp.rto_max
        self.backoff: int = 0
        self.icsk_pending: int = 0
        self.icsk_retransmits: int = 0
        self.probes_out: int = 0
        self.lsndtime: int = 0
        self.retransmit_timer = Timer(timers, kind._on_write_timer, self)
        self.delivered: int = 0
        self.delivered_ce: int = 0
        self.delivered_mstamp: int = 0
        self.first_tx_mstamp: int = 0
        # There is a bubble in the pipe until the first acknowledgement at least.
        self.app_limited: int = 0xFFFFFFFF
        self.rate_delivered: int = 0
        self.rate_interval: int = 0
        self.wstamp: int = 0
        self.rack_mstamp: int = 0
        self.rack_end_seq: int = 0
        self.rack_rtt_us: int = 0
        self.rack_reo: RackReordering = NO_REORDERING
        self.reordering: int = tcp.tcp_reordering
        self.tlp_high_seq: int = 0
        self.chrono_type: int = 0
        self.chrono_start: int = 0
        self.chrono_stat: list[int] | None = None
        self.rx_sacks: list[tuple[int, int]] | None = None
        self.bytes_acked: int = 0
        self.bytes_sent: int = 0
        self.data_segs_out: int = 0
        self.notsent_lowat: int = 0
        self.tfo: FastopenState = NO_FASTOPEN
        self.ca_ready: bool = False
        self.is_cwnd_limited: bool = False
        self.rack_advanced: bool = False
        self.tsq_throttled: bool = False
        self.tx_marks: bool = False
        """Whether a queued segment has, or had, something to tell the application (completion.py)."""
        self.fastopen_pending: bool = False
        self.sack_ok: bool = False
        self.is_sack_reneg: bool = False
        # Set up, and changed, now and then.
        self.ss_state: int = SS_UNCONNECTED
        self.key: bytes = b""
        self.rcvbuf = tcp.tcp_rmem[1]
        self.sndbuf = tcp.tcp_wmem[1]
        mark_capable(self)
        self.snd_up: int = 0
        self.mss_clamp: int = 0xFFFF
        self.urg_seq: int = 0
        self.rcvq_space: int = 0
        self.rcvq_seq: int = 0
        self.compressed_ack_rcv_nxt: int = 0
        self.dup_ack_counter: int = 0
        self.last_oow_ack_time: int = LONG_AGO
        self.timeout_rehash: int = 0
        self.probes_tstamp: int = 0
        self.synack_mstamp: int = 0
        self.keepalive_timer: Timer | None = None
        self.pacing_timer: Timer | None = None
        self.comp_sack_timer: Timer | None = None
        # Congestion and recovery.
        self.snd_cwnd_cnt: int = 0
        self.snd_cwnd_clamp: int = 0xFFFFFFFF
        self.prior_cwnd: int = 0
        self.prior_ssthresh: int = 0
        self.prr_delivered: int = 0
        self.prr_out: int = 0
        self.recv_sack_cache: Sequence[tuple[int, int]] = ()
        self.reord_seen: int = 0
        self.undo_marker: int = 0
        self.undo_retrans: int = -1
        self.retrans_stamp: int = 0
        self.dsack_dups: int = 0
        # What tcp_info tells.
        self.bytes_retrans: int = 0
        self.total_retrans: int = 0
        self.rcv_ooopack: int = 0
        # What few have: see parts.py, repair.py.
        self.request_queue: RequestSockQueue = NOT_LISTENING
        self.rto_stats: RtoStats = NO_TIMEOUTS
        self.repair_queue: int = 0
        self.ecn: EcnState | None = None
        # A child of a listener.
        self.listener: TcpSock | None = None
        self.saved_syn: bytes | None = None
        # Truth values.
        self.buffers_ready: bool = False
        self.fin_received: bool = False
        self.wscale_ok: bool = False
        self.undo_active: bool = False
        self.frto: bool = False
        self.tlp_retrans: bool = False
        self.rate_app_limited: bool = True

    def change_params(self) -> TcpParams:
        """The parameters, to set some of them: a copy, which takes the place of those that others may share."""
        params = self.params = self.params.copy()
        return params

    def own_request_queue(self) -> RequestSockQueue:
        """The request queue, to be changed."""
        if self.request_queue is NOT_LISTENING:
            self.request_queue = RequestSockQueue()
        return self.request_queue

    def own_tfo(self) -> FastopenState:
        """The state of Fast Open, to be changed."""
        if self.tfo is NO_FASTOPEN:
            self.tfo = FastopenState()
        return self.tfo

    def own_rto_stats(self) -> RtoStats:
        """The account of time-outs, to be changed."""
        if self.rto_stats is NO_TIMEOUTS:
            self.rto_stats = RtoStats()
        return self.rto_stats

    def own_rack_reo(self) -> RackReordering:
        """RACK's patience, to be changed."""
        if self.rack_reo is NO_REORDERING:
            self.rack_reo = RackReordering()
        return self.rack_reo

    def _on_write_timer(self, now: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _on_write_timer()")

    def _on_delack_timer(self, now: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _on_delack_timer()")

    def _on_keepalive_timer(self, now: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _on_keepalive_timer()")
