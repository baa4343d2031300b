"""What connections learned of a destination, for those that come after (Linux: tcp_metrics.c, `ip tcp_metrics`).

Of Linux's fields the ones for Fast Open are kept: the server's cookie, its MSS, and how often a SYN with data was lost
(RFC 7413 section 4.1.3). Stands beside the sockets; looked up once for each connection, never per segment.
"""

from __future__ import annotations

from typing import Final, final

MAX_ENTRIES: Final = 4096
"""Destinations remembered; the oldest makes room (Linux: by hash buckets of at most 5)."""


@final
class TcpMetric:
    """One destination. `cookie`: the server's, empty for none; `mss`: what its SYN+ACK announced; `syn_loss`: SYNs with
    data lost in a row, the last at `last_syn_loss` (ns); `try_exp`: 1 where it asked for the experimental option, 2
    where that is known not to work."""

    __slots__ = ("cookie", "cookie_exp", "last_syn_loss", "mss", "syn_loss", "try_exp")

    def __init__(self) -> None:
        self.cookie: bytes = b""
        self.cookie_exp: bool = False
        self.mss: int = 0
        self.syn_loss: int = 0
        self.last_syn_loss: int = 0
        self.try_exp: int = 0


@final
class TcpMetrics:
    """All destinations of one namespace, by our address and theirs."""

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: dict[tuple[bytes, bytes], TcpMetric] = {}

    def find(self, saddr: bytes, daddr: bytes) -> TcpMetric | None:
        """What is known, None for nothing."""
        return self._table.get((saddr, daddr))

    def make(self, saddr: bytes, daddr: bytes) -> TcpMetric:
        """What is known, a new entry for nothing."""
        entry = self._table.get((saddr, daddr))
        if entry is None:
            if len(self._table) >= MAX_ENTRIES:
                del self._table[next(iter(self._table))]
            entry = self._table[saddr, daddr] = TcpMetric()
        return entry

    def flush(self, daddr: bytes = b"") -> None:
        """Forget a destination, or all of them (`ip tcp_metrics flush`)."""
        if not daddr:
            self._table.clear()
            return
        for key in [key for key in self._table if key[1] == daddr]:
            del self._table[key]

    def __len__(self) -> int:
        return len(self._table)
