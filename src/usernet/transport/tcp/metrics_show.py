"""The metrics cache as `ip tcp_metrics show` has it: entries by iproute2's names, and their line of text.

Beside the cache (metrics.py), for all the surfaces that show it.
"""

from __future__ import annotations

from typing import Any

from usernet.transport.tcp.const import MSEC
from usernet.transport.tcp.metrics import TcpMetric


def metric_entry(entry: TcpMetric, dst: str, source: str, now: int) -> dict[str, Any]:
    """One entry under the keys of `ip -j tcp_metrics show`; times in seconds. What isn't known is left out."""
    found: dict[str, Any] = {"dst": dst, "age": (now - entry.stamp) // MSEC / 1000}
    for name in ("ssthresh", "cwnd", "reordering"):
        if value := getattr(entry, name):
            found[name] = value
    if entry.rtt:
        found["rtt"] = (entry.rtt >> 3) / 1_000_000
    if entry.rttvar:
        found["rttvar"] = (entry.rttvar >> 2) / 1_000_000
    if entry.mss:
        found["fopen_miss"] = entry.mss
    if entry.syn_loss:
        found["fopen_syn_drops"] = entry.syn_loss
        found["fopen_syn_drop_ts"] = (now - entry.last_syn_loss) // MSEC / 1000
    if entry.cookie:
        found["fo_cookie"] = entry.cookie.hex()
    found["source"] = source
    return found


def metric_line(entry: dict[str, Any]) -> str:
    """The line that `ip tcp_metrics show` prints of an entry."""
    parts = [f"{entry['dst']} age {entry['age']:.3f}sec"]
    parts += [f"{name} {entry[name]}" for name in ("ssthresh", "cwnd", "reordering") if name in entry]
    parts += [f"{name} {round(entry[name] * 1_000_000)}us" for name in ("rtt", "rttvar") if name in entry]
    if "fopen_miss" in entry:
        parts.append(f"fo_mss {entry['fopen_miss']}")
    if "fopen_syn_drops" in entry:
        parts.append(f"fo_syn_drops {entry['fopen_syn_drops']}/{entry['fopen_syn_drop_ts']:.3f}sec ago")
    if "fo_cookie" in entry:
        parts.append(f"fo_cookie {entry['fo_cookie']}")
    parts.append(f"source {entry['source']}")
    return " ".join(parts)
