"""`tcp_info` and its like, from a socket option's bytes to the names that code blocks use.

Used by `codeblock`. Layouts: Linux's `struct tcp_info` (uapi/linux/tcp.h, with the AccECN fields that packetdrill
knows), `union tcp_cc_info` (inet_diag.h), SO_MEMINFO (sock_diag.h). Host order; a structure may end early, as an older
kernel's does, and the fields that it does not have are 0.
"""

from __future__ import annotations

from typing import Final

TCP_INFO: Final = 11
TCP_CC_INFO: Final = 26
SO_MEMINFO: Final = 55

# (bytes, name) after the first eight bytes, which have bit fields.
_FIELDS: Final[tuple[tuple[int, str], ...]] = (
    (4, "tcpi_rto"), (4, "tcpi_ato"), (4, "tcpi_snd_mss"), (4, "tcpi_rcv_mss"), (4, "tcpi_unacked"),
    (4, "tcpi_sacked"), (4, "tcpi_lost"), (4, "tcpi_retrans"), (4, "tcpi_fackets"), (4, "tcpi_last_data_sent"),
    (4, "tcpi_last_ack_sent"), (4, "tcpi_last_data_recv"), (4, "tcpi_last_ack_recv"), (4, "tcpi_pmtu"),
    (4, "tcpi_rcv_ssthresh"), (4, "tcpi_rtt"), (4, "tcpi_rttvar"), (4, "tcpi_snd_ssthresh"), (4, "tcpi_snd_cwnd"),
    (4, "tcpi_advmss"), (4, "tcpi_reordering"), (4, "tcpi_rcv_rtt"), (4, "tcpi_rcv_space"), (4, "tcpi_total_retrans"),
    (8, "tcpi_pacing_rate"), (8, "tcpi_max_pacing_rate"), (8, "tcpi_bytes_acked"), (8, "tcpi_bytes_received"),
    (4, "tcpi_segs_out"), (4, "tcpi_segs_in"), (4, "tcpi_notsent_bytes"), (4, "tcpi_min_rtt"),
    (4, "tcpi_data_segs_in"), (4, "tcpi_data_segs_out"), (8, "tcpi_delivery_rate"), (8, "tcpi_busy_time"),
    (8, "tcpi_rwnd_limited"), (8, "tcpi_sndbuf_limited"), (4, "tcpi_delivered"), (4, "tcpi_delivered_ce"),
    (8, "tcpi_bytes_sent"), (8, "tcpi_bytes_retrans"), (4, "tcpi_dsack_dups"), (4, "tcpi_reord_seen"),
    (4, "tcpi_rcv_ooopack"), (4, "tcpi_snd_wnd"), (4, "tcpi_rcv_wnd"), (4, "tcpi_rehash"), (2, "tcpi_total_rto"),
    (2, "tcpi_total_rto_recoveries"), (4, "tcpi_total_rto_time"), (4, "tcpi_received_ce"),
    (4, "tcpi_delivered_e1_bytes"), (4, "tcpi_delivered_e0_bytes"), (4, "tcpi_delivered_ce_bytes"),
    (4, "tcpi_received_e1_bytes"), (4, "tcpi_received_e0_bytes"), (4, "tcpi_received_ce_bytes"),
)  # fmt: skip
_FIRST: Final = (
    "tcpi_state", "tcpi_ca_state", "tcpi_retransmits", "tcpi_probes", "tcpi_backoff", "tcpi_options",
)  # fmt: skip
TCP_INFO_LENGTH: Final = 8 + sum(size for size, _ in _FIELDS) + 4
TCP_CC_INFO_LENGTH: Final = 20
_MEMINFO: Final = (
    "RMEM_ALLOC", "RCVBUF", "WMEM_ALLOC", "SNDBUF", "FWD_ALLOC", "WMEM_QUEUED", "OPTMEM", "BACKLOG", "DROPS",
)  # fmt: skip
SO_MEMINFO_LENGTH: Final = 4 * len(_MEMINFO)

CONSTANTS: Final[dict[str, int]] = {
    "TCP_ESTABLISHED": 1, "TCP_SYN_SENT": 2, "TCP_SYN_RECV": 3, "TCP_FIN_WAIT1": 4, "TCP_FIN_WAIT2": 5,
    "TCP_TIME_WAIT": 6, "TCP_CLOSE": 7, "TCP_CLOSE_WAIT": 8, "TCP_LAST_ACK": 9, "TCP_LISTEN": 10, "TCP_CLOSING": 11,
    "TCP_CA_Open": 0, "TCP_CA_Disorder": 1, "TCP_CA_CWR": 2, "TCP_CA_Recovery": 3, "TCP_CA_Loss": 4,
    "TCPI_OPT_TIMESTAMPS": 1, "TCPI_OPT_SACK": 2, "TCPI_OPT_WSCALE": 4, "TCPI_OPT_ECN": 8, "TCPI_OPT_ECN_SEEN": 16,
    "TCPI_OPT_SYN_DATA": 32, "TCPI_OPT_USEC_TS": 64, "TCPI_OPT_TFO_CHILD": 128,
}  # fmt: skip


def _uint(data: bytes, at: int, size: int) -> int:
    """An unsigned field; 0 beyond the end."""
    return int.from_bytes(data[at : at + size], "little") if at + size <= len(data) else 0


def tcp_info(data: bytes) -> dict[str, int]:
    """The fields of a `struct tcp_info` by name."""
    out = {name: _uint(data, at, 1) for at, name in enumerate(_FIRST)}
    scales, flags = _uint(data, 6, 1), _uint(data, 7, 1)
    out["tcpi_snd_wscale"] = scales & 0xF
    out["tcpi_rcv_wscale"] = scales >> 4
    out["tcpi_delivery_rate_app_limited"] = flags & 1
    out["tcpi_fastopen_client_fail"] = flags >> 1 & 3
    at = 8
    for size, name in _FIELDS:
        out[name] = _uint(data, at, size)
        at += size
    ecn = _uint(data, at, 4)
    out["tcpi_ecn_mode"] = ecn & 3
    out["tcpi_accecn_opt_seen"] = ecn >> 2 & 3
    out["tcpi_accecn_fail_mode"] = ecn >> 4 & 0xF
    out["tcpi_options2"] = ecn >> 8
    return out


def tcp_cc_info(data: bytes) -> dict[str, int]:
    """What TCP_CC_INFO has, read as each controller's structure that it is long enough for, as packetdrill does."""
    out: dict[str, int] = {}
    if len(data) >= 20:
        out["bbr_bw_lo"], out["bbr_bw_hi"] = _uint(data, 0, 4), _uint(data, 4, 4)
        out["bbr_bw"] = _uint(data, 0, 8)
        out["bbr_min_rtt"] = _uint(data, 8, 4)
        out["bbr_pacing_gain"], out["bbr_cwnd_gain"] = _uint(data, 12, 4), _uint(data, 16, 4)
    if len(data) >= 16:
        out["dctcp_enabled"], out["dctcp_ce_state"] = _uint(data, 0, 2), _uint(data, 2, 2)
        out["dctcp_alpha"] = _uint(data, 4, 4)
        out["dctcp_ab_ecn"], out["dctcp_ab_tot"] = _uint(data, 8, 4), _uint(data, 12, 4)
        out["tcpv_enabled"], out["tcpv_rttcnt"] = _uint(data, 0, 4), _uint(data, 4, 4)
        out["tcp_rtt"], out["tcp_minrtt"] = _uint(data, 8, 4), _uint(data, 12, 4)
    return out


def so_meminfo(data: bytes) -> dict[str, int]:
    """What SO_MEMINFO has: SK_MEMINFO_RCVBUF and its like."""
    return {f"SK_MEMINFO_{name}": _uint(data, 4 * index, 4) for index, name in enumerate(_MEMINFO)}
