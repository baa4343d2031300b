"""The metrics of a route, by iproute2's names (Linux: net/ipv4/metrics.c, ip-route(8)).

A route's metrics are RTAX_* → value. Times are milliseconds; `features` is bits of RTAX_FEATURE_*. A metric that is
locked holds whatever is learned of the path; the locked ones are the bits 1 << RTAX_* of the metric RTAX_LOCK.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from usernet.core.errors import check_type
from usernet.net.dst import (
    RTAX_ADVMSS,
    RTAX_CWND,
    RTAX_FASTOPEN_NO_COOKIE,
    RTAX_FEATURE_ECN,
    RTAX_FEATURE_TCP_USEC_TS,
    RTAX_FEATURES,
    RTAX_HOPLIMIT,
    RTAX_INITCWND,
    RTAX_INITRWND,
    RTAX_LOCK,
    RTAX_MTU,
    RTAX_QUICKACK,
    RTAX_REORDERING,
    RTAX_RTO_MIN,
    RTAX_RTT,
    RTAX_RTTVAR,
    RTAX_SSTHRESH,
    RTAX_WINDOW,
)

ROUTE_METRICS: Final = {
    "mtu": RTAX_MTU,
    "window": RTAX_WINDOW,
    "rtt": RTAX_RTT,
    "rttvar": RTAX_RTTVAR,
    "ssthresh": RTAX_SSTHRESH,
    "cwnd": RTAX_CWND,
    "advmss": RTAX_ADVMSS,
    "reordering": RTAX_REORDERING,
    "hoplimit": RTAX_HOPLIMIT,
    "initcwnd": RTAX_INITCWND,
    "features": RTAX_FEATURES,
    "rto_min": RTAX_RTO_MIN,
    "initrwnd": RTAX_INITRWND,
    "quickack": RTAX_QUICKACK,
    "fastopen_no_cookie": RTAX_FASTOPEN_NO_COOKIE,
}

ROUTE_FEATURES: Final = {"ecn": RTAX_FEATURE_ECN, "tcp_usec_ts": RTAX_FEATURE_TCP_USEC_TS}

UINT_MAX: Final = 0xFFFFFFFF

TIMES: Final = frozenset({"rtt", "rttvar", "rto_min"})
"""Metrics that are times, in ms."""


def check_number(name: str, value: int) -> None:
    """Raises TypeError and ValueError, which name it, for a number that a route can't have (32 bits, unsigned)."""
    check_type(name, value, int, "an int")
    if not 0 <= value <= UINT_MAX:
        raise ValueError(f"{name}: expected 0 to {UINT_MAX}, not {value}")


def route_metrics(values: Mapping[str, int], locked: Iterable[str] = ()) -> dict[int, int]:
    """The metrics of a route from names and values. `rto_min` counts as locked, as iproute2 has it.

    Raises ValueError for a name that isn't known, and a number out of its bounds; TypeError for what is no int.
    """
    locked = frozenset(locked)
    for name in (*values, *locked):
        if name not in ROUTE_METRICS:
            raise ValueError(f"route metric: expected one of {', '.join(ROUTE_METRICS)}, not {name!r}")
    for name, value in values.items():
        check_number(name, value)
    metrics = {ROUTE_METRICS[name]: value for name, value in values.items()}
    locks = sum([1 << ROUTE_METRICS[name] for name in {*locked, "rto_min"} if name in values])
    if locks:
        metrics[RTAX_LOCK] = locks
    return metrics
