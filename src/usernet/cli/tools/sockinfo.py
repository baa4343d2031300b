"""The words in which `ss` tells the inside of a socket: timers, details, memory, `struct tcp_info` (ss(8) of iproute2).

Their order, their units and which of them are left out for being zero are those of iproute2, so that what reads its
output reads this.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Final

from usernet.core.clock import NSEC_PER_MSEC
from usernet.sock.cookies import SockCookies
from usernet.sock.inet import InetSock
from usernet.sock.msg import RCV_SHUTDOWN, SEND_SHUTDOWN
from usernet.sock.options import sock_getsockopt
from usernet.sock.sockopt import SO_MEMINFO
from usernet.transport.tcp.const import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    TCP_LISTEN,
)
from usernet.transport.tcp.info import (
    TCPI_OPT_ECN,
    TCPI_OPT_ECN_SEEN,
    TCPI_OPT_SACK,
    TCPI_OPT_SYN_DATA,
    TCPI_OPT_TIMESTAMPS,
    TCPI_OPT_WSCALE,
)
from usernet.transport.tcp.sock import TcpSock
from usernet.wire.ipv4 import format_addr

UNLIMITED: Final = 2**64 - 1
_RETRANSMISSION: Final = (ICSK_TIME_RETRANS, ICSK_TIME_REO_TIMEOUT, ICSK_TIME_LOSS_PROBE)
_BBR_INFO: Final = Struct("=5I")
_DCTCP_INFO: Final = Struct("=2H3I")


def duration(ns: int) -> str:
    """Time left of a timer: 119min, 1min30sec, 12sec, 5.123ms (seconds and the rest), 204ms (print_ms_timer)."""
    ms = max(ns, 0) // NSEC_PER_MSEC
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    text = ""
    if minutes:
        ms = 0
        text = f"{minutes}min"
        if minutes > 9:
            seconds = 0
    if seconds:
        if seconds > 9:
            ms = 0
        text += f"{seconds}." if ms else f"{seconds}sec"
    return f"{text}{ms:03}ms" if ms else text


def bandwidth(bits: float, numeric: bool) -> str:
    """Bits per second, with a letter where they are many and numbers aren't asked for (sprint_bw)."""
    if numeric:
        return f"{bits:.0f}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if bits >= unit:
            return f"{bits / unit:.3g}{letter}"
    return f"{bits:g}"


def timer(sk: TcpSock) -> str:
    """`ss -o`: what is armed, how long it still takes, and how often it ran out (Linux: inet_sk_diag_fill)."""
    now = sk.loop.now
    if sk.icsk_pending in _RETRANSMISSION:
        return f"timer:(on,{duration(sk.retransmit_timer.deadline - now)},{sk.icsk_retransmits})"
    if sk.icsk_pending == ICSK_TIME_PROBE0:
        return f"timer:(persist,{duration(sk.retransmit_timer.deadline - now)},{sk.probes_out})"
    keepalive = sk.keepalive_timer
    if keepalive is not None and keepalive.pending:
        return f"timer:(keepalive,{duration(keepalive.deadline - now)},{sk.probes_out})"
    return ""


def details(sk: InetSock) -> str:
    """`ss -e`: inode, which a stack has none of, cookie, mark, and which directions are open."""
    words = ["ino:0", f"sk:{sk.net.get(SockCookies).of(sk):x}"]
    if sk.mark:
        words.append(f"fwmark:{sk.mark:#x}")
    mask = sk.shutdown_mask
    words.append(("-" if mask & RCV_SHUTDOWN else "<") + "-" + ("-" if mask & SEND_SHUTDOWN else ">"))
    return " ".join(words)


def memory(sk: InetSock) -> str:
    """`ss -m` (SO_MEMINFO)."""
    rmem, rcvbuf, wmem, sndbuf, forward, queued, optmem, backlog, drops = unpack_from(
        "=9I", sock_getsockopt(sk, SO_MEMINFO, 36)
    )
    return f"skmem:(r{rmem},rb{rcvbuf},t{wmem},tb{sndbuf},f{forward},w{queued},o{optmem},bl{backlog},d{drops})"


def md5keys(sk: TcpSock) -> str:
    """The keys of TCP MD5, as ss shows them to who may know (print_md5sig)."""
    if sk.auth is None or not sk.auth.md5:
        return ""
    return "md5keys:" + ",".join(
        f"{format_addr(key.address)}/{key.prefix}={''.join(_escaped(byte) for byte in key.key)}"
        for key in sk.auth.md5
    )


def _escaped(byte: int) -> str:
    return chr(byte) if 32 < byte < 127 and byte not in b"\\," else f"\\{byte:03o}"


def congestion_words(name: str, cc_info: bytes, numeric: bool) -> list[str]:
    """What TCP_CC_INFO tells of BBR and DCTCP."""
    if name == "bbr" and len(cc_info) >= _BBR_INFO.size:
        low, high, min_rtt, pacing_gain, cwnd_gain = _BBR_INFO.unpack_from(cc_info)
        text = f"bbr:(bw:{bandwidth((high << 32 | low) * 8, numeric)}bps,mrtt:{min_rtt / 1000:g}"
        if pacing_gain:
            text += f",pacing_gain:{pacing_gain / 256:g}"
        if cwnd_gain:
            text += f",cwnd_gain:{cwnd_gain / 256:g}"
        return [text + ")"]
    if name.startswith("dctcp") and len(cc_info) >= _DCTCP_INFO.size:
        enabled, ce_state, alpha, ab_ecn, ab_tot = _DCTCP_INFO.unpack_from(cc_info)
        if not enabled:
            return ["dctcp:fallback_mode"]
        return [f"dctcp:(ce_state:{ce_state},alpha:{alpha},ab_ecn:{ab_ecn},ab_tot:{ab_tot})"]
    return []


def describe_info(
    info: dict[str, int], congestion: str, cc_info: bytes = b"", *, options: bool = True, numeric: bool = True
) -> str:
    """The words of `ss -i` (tcp_stats_print). info: as `tcp_info` gives it; cc_info: what TCP_CC_INFO tells.

    options: with those of the handshake, which go with -o; numeric: rates in whole numbers (-n).
    """
    words: list[str] = []
    flags = info["options"]
    if options:
        for bit, word in (
            (TCPI_OPT_TIMESTAMPS, "ts"), (TCPI_OPT_SACK, "sack"), (TCPI_OPT_ECN, "ecn"),
            (TCPI_OPT_ECN_SEEN, "ecnseen"), (TCPI_OPT_SYN_DATA, "fastopen"),
        ):  # fmt: skip
            if flags & bit:
                words.append(word)
    words.append(congestion)
    if flags & TCPI_OPT_WSCALE:
        words.append(f"wscale:{info['wscale'] & 15},{info['wscale'] >> 4}")
    if info["rto"] and info["rto"] != 3_000_000:
        words.append(f"rto:{info['rto'] / 1000:g}")
    _some(words, info, "backoff")
    if info["rtt"]:
        words.append(f"rtt:{info['rtt'] / 1000:g}/{info['rttvar'] / 1000:g}")
    if info["ato"]:
        words.append(f"ato:{info['ato'] / 1000:g}")
    _some(words, info, "mss=snd_mss", "pmtu", "rcvmss=rcv_mss", "advmss", "cwnd=snd_cwnd")
    if 0 < info["snd_ssthresh"] < 0xFFFF:
        words.append(f"ssthresh:{info['snd_ssthresh']}")
    _some(words, info, "bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in")
    _some(words, info, "data_segs_out", "data_segs_in")
    words += congestion_words(congestion, cc_info, numeric)
    if info["rtt"] and info["snd_mss"] and info["snd_cwnd"]:
        rate = info["snd_cwnd"] * info["snd_mss"] * 8_000_000 / info["rtt"]
        words.append(f"send {bandwidth(rate, numeric)}bps")
    _some(words, info, "lastsnd=last_data_sent", "lastrcv=last_data_recv", "lastack=last_ack_recv")
    if 0 < info["pacing_rate"] < UNLIMITED:
        text = f"pacing_rate {bandwidth(info['pacing_rate'] * 8, numeric)}bps"
        if 0 < info["max_pacing_rate"] < UNLIMITED:
            text += f"/{bandwidth(info['max_pacing_rate'] * 8, numeric)}bps"
        words.append(text)
    if info["delivery_rate"]:
        words.append(f"delivery_rate {bandwidth(info['delivery_rate'] * 8, numeric)}bps")
    _some(words, info, "delivered", "delivered_ce")
    if info["delivery_rate_app_limited"] & 1:
        words.append("app_limited")
    busy = info["busy_time"]
    if busy:
        words.append(f"busy:{busy // 1000}ms")
        for name in ("rwnd_limited", "sndbuf_limited"):
            if info[name]:
                words.append(f"{name}:{info[name] // 1000}ms({100 * info[name] / busy:.1f}%)")
    _some(words, info, "unacked")
    if info["retrans"] or info["total_retrans"]:
        words.append(f"retrans:{info['retrans']}/{info['total_retrans']}")
    _some(words, info, "lost")
    if info["state"] != TCP_LISTEN:
        _some(words, info, "sacked")
    _some(words, info, "dsack_dups", "fackets")
    if info["reordering"] != 3:
        words.append(f"reordering:{info['reordering']}")
    _some(words, info, "reord_seen")
    if info["rcv_rtt"]:
        words.append(f"rcv_rtt:{info['rcv_rtt'] / 1000:g}")
    _some(words, info, "rcv_space", "rcv_ssthresh", "notsent=notsent_bytes")
    if 0 < info["min_rtt"] < 0xFFFFFFFF:
        words.append(f"minrtt:{info['min_rtt'] / 1000:g}")
    _some(words, info, "rcv_ooopack", "snd_wnd", "rcv_wnd", "rehash")
    return " ".join(words)


def _some(words: list[str], info: dict[str, int], *names: str) -> None:
    """Those that aren't zero. A name may be given as word=field."""
    for name in names:
        word, _, field = name.partition("=")
        value = info[field or word]
        if value:
            words.append(f"{word}:{value}")
