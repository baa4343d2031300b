"""TCP_INFO: what a connection tells of itself (tcp(7); Linux: tcp_get_info, `struct tcp_info` of uapi/linux/tcp.h)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.transport.tcp import chrono
from usernet.transport.tcp.accecn import INET_ECN_CE, INET_ECN_ECT_0, INET_ECN_ECT_1
from usernet.transport.tcp.const import MSEC, SEQ_MASK, TCP_INFINITE_SSTHRESH, TCP_LISTEN
from usernet.transport.tcp.ecn import TCP_ECN_MODE_ANY, TCP_ECN_SEEN, mode_accecn, mode_pending

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock

TCPI_OPT_TIMESTAMPS: Final = 1
TCPI_OPT_SACK: Final = 2
TCPI_OPT_WSCALE: Final = 4
TCPI_OPT_ECN: Final = 8
TCPI_OPT_ECN_SEEN: Final = 16
TCPI_OPT_SYN_DATA: Final = 32
TCPI_OPT_TFO_CHILD: Final = 128

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
    info["pacing_rate"] = min(sk.pacing_rate, 2**64 - 1)
    info["max_pacing_rate"] = sk.max_pacing_rate or 2**64 - 1
    info["reordering"] = sk.reordering
    info["snd_cwnd"] = sk.snd_cwnd
    if sk.state == TCP_LISTEN:
        # A listener shows its queues where a connection shows what is under way.
        info["unacked"] = len(sk.request_queue.accept_queue or ())
        info["sacked"] = sk.request_queue.backlog
        return info
    info["rto"] = sk.rto // 1000
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
    if sk.tfo.syn_data_acked:
        options |= TCPI_OPT_SYN_DATA
    if sk.tfo.syn_fastopen_child:
        options |= TCPI_OPT_TFO_CHILD
    info["options"] = options
    info["delivery_rate_app_limited"] = int(sk.rate_app_limited) | sk.tfo.fastopen_client_fail << 1
    info["ato"] = min(sk.ack_ato, sk.params.delack_max) // 1000
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
    info["notsent_bytes"] = _signed(sk.write_seq - sk.snd_nxt)
    info["busy_time"], info["rwnd_limited"], info["sndbuf_limited"] = chrono.times(sk)
    info["min_rtt"] = sk.min_rtt_us() & SEQ_MASK
    info["data_segs_in"] = sk.data_segs_in
    info["data_segs_out"] = sk.data_segs_out
    info["delivery_rate"] = delivery_rate(sk)
    info["delivered"] = sk.delivered & SEQ_MASK
    info["bytes_sent"] = sk.bytes_sent
    info["bytes_retrans"] = sk.bytes_retrans
    info["dsack_dups"] = sk.dsack_dups
    info["reord_seen"] = sk.reord_seen
    info["rcv_ooopack"] = sk.rcv_ooopack
    info["snd_wnd"] = sk.snd_wnd
    info["rcv_wnd"] = sk.rcv_wnd
    info["rehash"] = sk.timeout_rehash
    info["total_rto"] = sk.rto_stats.total_rto & 0xFFFF
    info["total_rto_recoveries"] = sk.rto_stats.total_rto_recoveries & 0xFFFF
    info["total_rto_time"] = sk.rto_stats.total_rto_time
    if sk.rto_stats.rto_stamp:
        info["total_rto_time"] += (now - sk.rto_stats.rto_stamp) // MSEC
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


def _signed(difference: int) -> int:
    """The distance of two sequence numbers, 0 where the second is ahead."""
    difference &= SEQ_MASK
    return 0 if difference & 0x80000000 else difference


def pack_info(sk: TcpSock) -> bytes:
    """As `struct tcp_info`, 280 bytes."""
    info = tcp_info(sk)
    return TCP_INFO.pack(*[info[name] for name in FIELDS])


# -- SOF_TIMESTAMPING_OPT_STATS

_NLA: Final = {8: Struct("=HHQ"), 4: Struct("=HHI"), 2: Struct("=HHH2x"), 1: Struct("=HHB3x")}
_NLA_HEADER: Final = 4


def opt_stats(sk: TcpSock, skb: SKBuff, ack_skb: SKBuff | None) -> bytes:
    """The state of a connection when a segment left or was acknowledged: netlink attributes TCP_NLA_*, in Linux's order
    (tcp_get_timestamping_opt_stats).

    skb: the packet that left, or the queued segment. ack_skb: what acknowledged it.
    """
    busy, rwnd_limited, sndbuf_limited = chrono.times(sk)
    sent_at = skb.tx.mstamp if ack_skb is not None else sk.wstamp
    attributes = [
        (1, 8, busy),
        (2, 8, rwnd_limited),
        (3, 8, sndbuf_limited),
        (4, 8, sk.data_segs_out),
        (5, 8, sk.total_retrans),
        (6, 8, min(sk.pacing_rate, 2**64 - 1)),
        (7, 8, delivery_rate(sk)),
        (8, 4, sk.snd_cwnd),
        (9, 4, sk.reordering),
        (10, 4, sk.min_rtt_us()),
        (11, 1, min(sk.icsk_retransmits, 255)),
        (12, 1, int(sk.rate_app_limited)),
        (15, 4, min(sk.snd_ssthresh, TCP_INFINITE_SSTHRESH)),
        (16, 4, sk.delivered),
        (17, 4, sk.delivered_ce),
        (13, 4, _signed(sk.write_seq - sk.snd_una)),
        (14, 1, sk.ca_state),
        (18, 8, sk.bytes_sent),
        (19, 8, sk.bytes_retrans),
        (20, 4, sk.dsack_dups),
        (21, 4, sk.reord_seen),
        (22, 4, sk.srtt_us >> 3),
        (23, 2, sk.timeout_rehash),
        (24, 4, _signed(sk.write_seq - sk.snd_nxt)),
        (25, 8, sent_at),
    ]
    if ack_skb is not None:
        attributes.append((26, 1, sk.af.header_of(ack_skb)[1]))
    attributes.append((27, 4, sk.timeout_rehash))
    return b"".join(
        _NLA[size].pack(_NLA_HEADER + size, kind, value & ((1 << 8 * size) - 1)) for kind, size, value in attributes
    )
