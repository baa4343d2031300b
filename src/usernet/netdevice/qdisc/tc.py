"""Qdiscs by name, with the arguments that tc(8) takes: `make("fq", ["limit", "100", "maxrate", "10mbit"])`.

A kind is registered here with its parser, so a new one is one file and one call of `register`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from usernet.core.errors import error
from usernet.netdevice.qdisc.base import Qdisc
from usernet.netdevice.qdisc.fq import Fq
from usernet.netdevice.qdisc.pfifo import Bfifo, NoQueue, Pfifo, PfifoFast

_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-z]*)")
_RATES: Final = {
    "": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12,
    "kibit": 2**10, "mibit": 2**20, "gibit": 2**30, "tibit": 2**40,
    "bps": 8, "kbps": 8 * 10**3, "mbps": 8 * 10**6, "gbps": 8 * 10**9, "tbps": 8 * 10**12,
}  # fmt: skip
_TIMES: Final = {"": 1000, "us": 1000, "usec": 1000, "usecs": 1000, "ms": 10**6, "msec": 10**6, "msecs": 10**6,
                 "s": 10**9, "sec": 10**9, "secs": 10**9, "ns": 1, "nsec": 1, "nsecs": 1}  # fmt: skip
_SIZES: Final = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30,
                 "kbit": 128, "mbit": 2**17, "gbit": 2**27}  # fmt: skip

Value = Callable[[str], int]
Parser = Callable[[Sequence[str], int], Qdisc]


def _scaled(text: str, units: dict[str, int], what: str) -> int:
    match = _NUMBER.fullmatch(text.lower())
    if match is None or match[2] not in units:
        raise error(errno.EINVAL, f"expected {what}, not {text!r}")
    return int(float(match[1]) * units[match[2]]) if "." in match[1] else int(match[1]) * units[match[2]]


def rate(text: str) -> int:
    """A rate in bytes per second: "10mbit", "1.5gbit", "100kbps" (bytes). Raises OSError EINVAL."""
    return _scaled(text, _RATES, "a rate such as 10mbit") // 8


def time(text: str) -> int:
    """A time in ns: "40ms", "1s", microseconds without a unit. Raises OSError EINVAL."""
    return _scaled(text, _TIMES, "a time such as 40ms")


def size(text: str) -> int:
    """A number of bytes: "1500", "64k". Raises OSError EINVAL."""
    return _scaled(text, _SIZES, "a size such as 64kb")


def number(text: str) -> int:
    """A plain number. Raises OSError EINVAL."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise error(errno.EINVAL, f"expected a number, not {text!r}")
    return value


def options(kind: str, words: Sequence[str], known: dict[str, Value | tuple[str, Any]]) -> dict[str, Any]:
    """Parse tc's words. known: for each word, what parses the word behind it, or, for a flag, an argument's name and
    its value. Returns arguments by name. Raises OSError EINVAL."""
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        meaning = known.get(word)
        if meaning is None:
            raise error(errno.EINVAL, f"{kind}: {word!r} is unknown, expected some of {', '.join(known) or 'nothing'}")
        if isinstance(meaning, tuple):
            found[meaning[0]] = meaning[1]
        elif not left:
            raise error(errno.EINVAL, f"{kind}: expected a value after {word!r}")
        else:
            found[word] = meaning(left.pop(0))
    return found


_FQ: Final[dict[str, Value | tuple[str, Any]]] = {
    "limit": number, "flow_limit": number, "quantum": size, "initial_quantum": size, "maxrate": rate,
    "refill_delay": time, "low_rate_threshold": rate, "orphan_mask": number, "ce_threshold": time, "horizon": time,
    "pacing": ("pacing", True), "nopacing": ("pacing", False),
    "horizon_drop": ("horizon_drop", True), "horizon_cap": ("horizon_drop", False),
    "buckets": number, "timer_slack": time,
}  # fmt: skip


def _fq(words: Sequence[str], queue_length: int) -> Qdisc:
    chosen = options("fq", words, _FQ)
    # How Linux finds a flow, and how late its timers may be: here a dict, and exact.
    for without in ("buckets", "timer_slack"):
        chosen.pop(without, None)
    return Fq(**chosen)


def _pfifo(words: Sequence[str], queue_length: int) -> Qdisc:
    return Pfifo(**({"limit": queue_length} | options("pfifo", words, {"limit": number})))


def _bfifo(words: Sequence[str], queue_length: int) -> Qdisc:
    return Bfifo(**({"limit": queue_length * 1514} | options("bfifo", words, {"limit": size})))


def _pfifo_fast(words: Sequence[str], queue_length: int) -> Qdisc:
    options("pfifo_fast", words, {})
    return PfifoFast(queue_length)


def _noqueue(words: Sequence[str], queue_length: int) -> Qdisc:
    options("noqueue", words, {})
    return NoQueue()


_KINDS: dict[str, Parser] = {
    "fq": _fq, "pfifo": _pfifo, "bfifo": _bfifo, "pfifo_fast": _pfifo_fast, "noqueue": _noqueue,
}  # fmt: skip


def register(kind: str, parser: Parser) -> None:
    """Make a kind known. parser: makes the qdisc from tc's words and the device's queue length."""
    _KINDS[kind] = parser


def make(kind: str, words: Sequence[str] = (), queue_length: int = 1000) -> Qdisc:
    """The qdisc of that kind. words: tc's arguments behind the kind. queue_length: the device's, in packets, for a
    kind whose limit isn't given. Raises OSError: ENOENT for a kind that there is none of, EINVAL."""
    parser = _KINDS.get(kind)
    if parser is None:
        raise error(errno.ENOENT, f"no qdisc of kind {kind!r}; there are: {', '.join(sorted(_KINDS))}")
    try:
        return parser(words, queue_length)
    except ValueError as bad:
        raise error(errno.EINVAL, str(bad)) from None
