"""Numbers as people type them, in tc(8)'s units: "10ms", "1%", "50mbit", "4M"."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z%/]*)\s*")
_TIMES: Final = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "usec": 1e-6}
_RATES: Final = {
    "": 1.0, "bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "bit/s": 1.0, "kbit/s": 1e3, "mbit/s": 1e6,
    "gbit/s": 1e9, "bps": 8.0, "kbps": 8e3, "mbps": 8e6, "gbps": 8e9,
}  # fmt: skip
_SIZES: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9,
                 "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}  # fmt: skip


def _split(text: str) -> tuple[float, str] | None:
    match = _NUMBER.fullmatch(text)
    return None if match is None else (float(match[1]), match[2].lower())


def parse_time(text: str) -> float:
    """Seconds: "10ms", "0.5", "20us". Raises ValueError."""
    split = _split(text)
    if split is None or split[1] not in _TIMES:
        raise ValueError(f"expected a time such as 10ms or 0.5s, not {text!r}")
    return split[0] * _TIMES[split[1]]


def parse_rate(text: str) -> float:
    """Bit/s: "50mbit", "1gbit"; bps are bytes per second, as for tc. Raises ValueError."""
    split = _split(text)
    if split is None or split[1] not in _RATES:
        raise ValueError(f"expected a rate such as 50mbit, or 0 for no limit, not {text!r}")
    return split[0] * _RATES[split[1]]


def parse_fraction(text: str) -> float:
    """A fraction from 0 to 1: "1%", "0.01". Raises ValueError."""
    split = _split(text)
    if split is None or split[1] not in ("", "%"):
        raise ValueError(f"expected a fraction such as 1% or 0.01, not {text!r}")
    value = split[0] / 100 if split[1] else split[0]
    if value > 1:
        raise ValueError(f"expected at most 100% (1.0), not {text!r}")
    return value


def parse_size(text: str) -> int:
    """Bytes: "4M", "200k", "1500". Raises ValueError."""
    split = _split(text)
    if split is None or split[1] not in _SIZES:
        raise ValueError(f"expected a size such as 4M or 200k, not {text!r}")
    return int(split[0] * _SIZES[split[1]])


def format_bytes(count: float) -> str:
    """"4.0 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_rate(bits: float) -> str:
    """"48.2 Mbit/s"."""
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits < 1000:
            return f"{bits:.3g} {unit}"
        bits /= 1000
    return f"{bits:.3g} Gbit/s"


def format_time(seconds: float) -> str:
    """"20.4 ms"."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
