"""HyStart++: out of slow start before the queue overflows, and back where it was too soon (RFC 9406).

Rounds are counted by sequence numbers. When the smallest RTT of a round is more than that of the round before by an
eighth (4 to 16 ms), a queue builds up, perhaps. So conservative slow start follows (CSS): growth at a quarter of the
speed. If the RTT falls again, it was a false alarm, and slow start goes on; after five rounds the window is what it is
then. Only for the first slow start of a connection: later ones know their threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.transport.tcp.const import TCP_INFINITE_SSTHRESH, before

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

MIN_RTT_THRESH_US: Final = 4_000
MAX_RTT_THRESH_US: Final = 16_000
MIN_RTT_DIVISOR: Final = 8
N_RTT_SAMPLE: Final = 8
CSS_GROWTH_DIVISOR: Final = 4
CSS_ROUNDS: Final = 5
BURST_LIMIT: Final = 8
"""L: packets by which one acknowledgement may raise the window where nothing paces (section 4.3)."""

_NO_RTT: Final = 1 << 62


@final
class HystartPlusPlus:
    """The state of one connection. RTTs in µs."""

    __slots__ = ("css_baseline_us", "css_rounds", "current_round_us", "done", "fraction", "last_round_us", "samples",
                 "window_end")  # fmt: skip

    def __init__(self, sk: TcpSock) -> None:
        self.done: bool = False
        self.window_end: int = sk.snd_nxt
        self.last_round_us: int = _NO_RTT
        self.current_round_us: int = _NO_RTT
        self.samples: int = 0
        self.css_baseline_us: int = 0
        """Of the round that raised the alarm; 0 outside of CSS."""
        self.css_rounds: int = 0
        self.fraction: int = 0

    def growth(self, sk: TcpSock, acked: int) -> int:
        """By how many packets the window may grow for `acked` acknowledged ones."""
        if not sk.pacing_status:
            acked = min(acked, BURST_LIMIT)
        if not self.css_baseline_us:
            return acked
        self.fraction += acked
        grown, self.fraction = divmod(self.fraction, CSS_GROWTH_DIVISOR)
        return grown

    def sample(self, sk: TcpSock, rtt_us: int) -> bool:
        """An RTT was measured in slow start. True where slow start ends now: the threshold is to be the window."""
        if self.done or sk.snd_ssthresh < TCP_INFINITE_SSTHRESH:
            return False
        if not before(sk.snd_una, self.window_end):
            self.window_end = sk.snd_nxt
            self.last_round_us = self.current_round_us
            self.current_round_us = _NO_RTT
            self.samples = 0
            if self.css_baseline_us:
                self.css_rounds += 1
                if self.css_rounds >= CSS_ROUNDS:
                    self.done = True
                    return True
        self.current_round_us = min(self.current_round_us, rtt_us)
        self.samples += 1
        if self.samples < N_RTT_SAMPLE:
            return False
        if self.css_baseline_us:
            if self.current_round_us < self.css_baseline_us:
                self.css_baseline_us = self.css_rounds = self.fraction = 0
        elif self.last_round_us != _NO_RTT:
            threshold = min(max(self.last_round_us // MIN_RTT_DIVISOR, MIN_RTT_THRESH_US), MAX_RTT_THRESH_US)
            if self.current_round_us >= self.last_round_us + threshold:
                self.css_baseline_us = self.current_round_us
                self.css_rounds = 0
        return False
