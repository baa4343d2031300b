"""TCP_INFO: what a connection tells of itself (tcp(7); Linux: tcp_get_info, `struct tcp_info` of uapi/linux/tcp.h)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.transport.tcp.accecn import INET_ECN_CE, INET_ECN_ECT_0, INET_ECN_ECT_1
from usernet.transport.tcp.const import MSEC, SEQ_MASK, TCP_INFINITE_SSTHRESH, TCP_LISTEN
from usernet.transport.tcp.ecn import TCP_ECN_MODE_ANY, TCP_ECN_SEEN, mode_accecn, mode_pending

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

TCPI_OPT_TIMESTAMPS: Final = 1
TCPI_OPT_SACK: Final = 2
TCPI_OPT_WSCALE: Final = 4
TCPI_OPT_ECN: Final = 8
TCPI_OPT_ECN_SEEN: Final = 16
TCPI_OPT_SYN_DATA: Final = 32

FIELDS: Final = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "delivery_rate_app_limited",
    "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent",
    "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar",
    "snd_ssthresh", "snd_cwnd", "advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans",
    "pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received", "segs_out", "segs_in", "notsent_bytes",
    "min_rtt", "data_segs_in", "data_segs_out", "delivery_rate", "busy_time", "rwnd_limited",
    "sndbuf_limited", "delivered", "delivered_ce", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen",
    "rcv_ooopack", "snd_wnd", "rcv_wnd", "rehash", "total_rto", "total_rto_recoveries", "total_rto_time",
    "received_ce", "delivered_e1_bytes", "delivered_e0_bytes", "delivered_ce_bytes", "received_e1_bytes",
    "received_e0_bytes", "received_ce_bytes", "ecn_mode",
)  # fmt: skip
TCP_INFO: Final = Struct("=8B24I4Q6I4Q2I2Q6I2HI7II")


def delivery_rate(sk: TcpSock) -> int:
    """The last good sample of the delivery rate (bytes per second; Linux: tcp_compute_delivery_rate)."""
    if not sk.rate_delivered or not sk.rate_interval:
        return 0
    return sk.rate_delivered * sk.mss_cache * 1_000_000_000 // sk.rate_interval


def tcp_info(sk: TcpSock) -> dict[str, int]:
    """The fields of `struct tcp_info` by name, without their prefix tcpi_ (µs, bytes, packets as there)."""
    now = sk.loop.now
    info = dict.fromkeys(FIELDS, 0)
    info["state"] = sk.state
    info["rto"] = sk.rto // 1000
    info["pacing_rate"] = min(sk.pacing_rate, 2**64 - 1)
    info["max_pacing_rate"] = sk.max_pacing_rate or 2**64 - 1
    info["reordering"] = sk.reordering
    info["snd_cwnd"] = sk.snd_cwnd
    if sk.state == TCP_LISTEN:
        # A listener shows its queues where a connection shows what is under way.
        info["unacked"] = len(sk.accept_queue or ())
        info["sacked"] = sk.backlog
        return info
    info["ca_state"] = sk.ca_state
    info["retransmits"] = min(sk.icsk_retransmits, 255)
    info["probes"] = min(sk.probes_out, 255)
    info["backoff"] = min(sk.backoff, 255)
    options = 0
    if sk.tstamp_ok:
        options |= TCPI_OPT_TIMESTAMPS
    if sk.sack_ok:
        options |= TCPI_OPT_SACK
    if sk.wscale_ok:
        options |= TCPI_OPT_WSCALE
        info["wscale"] = sk.snd_wscale | sk.rcv_wscale << 4
    if sk.ecn_flags & TCP_ECN_MODE_ANY:
        options |= TCPI_OPT_ECN
    if sk.ecn_flags & TCP_ECN_SEEN:
        options |= TCPI_OPT_ECN_SEEN
    if sk.syn_data_acked:
        options |= TCPI_OPT_SYN_DATA
    info["options"] = options
    info["delivery_rate_app_limited"] = int(sk.rate_app_limited) | sk.fastopen_client_fail << 1
    info["ato"] = sk.ack_ato // 1000
    info["snd_mss"] = sk.mss_cache
    info["rcv_mss"] = sk.rcv_mss
    info["unacked"] = sk.packets_out
    info["sacked"] = sk.sacked_out
    info["lost"] = sk.lost_out
    info["retrans"] = sk.retrans_out
    info["last_data_sent"] = (now - sk.lsndtime) // MSEC & SEQ_MASK
    info["last_data_recv"] = (now - sk.ack_lrcvtime) // MSEC & SEQ_MASK
    info["last_ack_recv"] = (now - sk.rcv_tstamp) // MSEC & SEQ_MASK
    info["pmtu"] = sk.pmtu_cookie
    info["rcv_ssthresh"] = sk.rcv_ssthresh
    info["rtt"] = sk.srtt_us >> 3
    info["rttvar"] = sk.mdev_us >> 2
    info["snd_ssthresh"] = min(sk.snd_ssthresh, TCP_INFINITE_SSTHRESH)
    info["advmss"] = sk.advmss
    info["rcv_rtt"] = sk.rcv_rtt_us >> 3
    info["rcv_space"] = sk.rcvq_space
    info["total_retrans"] = sk.total_retrans
    info["bytes_acked"] = sk.bytes_acked
    info["bytes_received"] = sk.bytes_received
    info["segs_out"] = sk.segs_out
    info["segs_in"] = sk.segs_in
    info["notsent_bytes"] = max((sk.write_seq - sk.snd_nxt) & SEQ_MASK, 0)
    info["min_rtt"] = sk.min_rtt_us() & SEQ_MASK
    info["data_segs_in"] = sk.data_segs_in
    info["data_segs_out"] = sk.data_segs_out
    info["delivery_rate"] = delivery_rate(sk)
    info["delivered"] = sk.delivered & SEQ_MASK
    info["delivered_ce"] = sk.delivered_ce & SEQ_MASK
    info["bytes_sent"] = sk.bytes_sent
    info["bytes_retrans"] = sk.bytes_retrans
    info["dsack_dups"] = sk.dsack_dups
    info["reord_seen"] = sk.reord_seen
    info["rcv_ooopack"] = sk.rcv_ooopack
    info["snd_wnd"] = sk.snd_wnd
    info["rcv_wnd"] = sk.rcv_wnd
    info["total_rto"] = sk.total_rto
    _ecn_info(sk, info)
    return info


def _ecn_info(sk: TcpSock, info: dict[str, int]) -> None:
    info["delivered_ce"] = sk.delivered_ce & SEQ_MASK
    state = sk.ecn
    if state is None:
        return
    info["received_ce"] = state.received_ce & SEQ_MASK
    for name, mark in (("e1", INET_ECN_ECT_1), ("e0", INET_ECN_ECT_0), ("ce", INET_ECN_CE)):
        info[f"delivered_{name}_bytes"] = state.delivered_bytes[mark] & SEQ_MASK
        info[f"received_{name}_bytes"] = state.received_bytes[mark] & SEQ_MASK
    # Two bits for the mode, two for what was seen of the option, four for what failed.
    flags = sk.ecn_flags
    mode = 3 if mode_pending(flags) else 2 if mode_accecn(flags) else 1
    info["ecn_mode"] = mode | state.saw_opt << 2 | state.fail_mode << 4


def pack_info(sk: TcpSock) -> bytes:
    """As `struct tcp_info`, 280 bytes."""
    info = tcp_info(sk)
    return TCP_INFO.pack(*[info[name] for name in FIELDS])
