"""What a connection's sender waits for, as time: the stop watch behind tcp_info's busy_time, rwnd_limited and
sndbuf_limited (Linux: tcp_chrono_start, tcp_chrono_stop).

One watch runs at a time, the one of the highest number that has a reason to: BUSY while anything is to be sent or
acknowledged, RWND_LIMITED while the peer's window holds data back, SNDBUF_LIMITED while the application would write
more but the send buffer is full and all of it is under way. Times in ns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

UNSPEC: Final = 0
BUSY: Final = 1
RWND_LIMITED: Final = 2
SNDBUF_LIMITED: Final = 3


def _switch(sk: TcpSock, kind: int) -> None:
    now = sk.loop.now
    old = sk.chrono_type
    if old:
        if sk.chrono_stat is None:
            sk.chrono_stat = [0, 0, 0]
        sk.chrono_stat[old - 1] += now - sk.chrono_start
    sk.chrono_start = now
    sk.chrono_type = kind


def start(sk: TcpSock, kind: int) -> None:
    """There is a reason to count `kind`; the one of the highest number is counted."""
    if kind > sk.chrono_type:
        _switch(sk, kind)


def stop(sk: TcpSock, kind: int) -> None:
    """There is no reason any more: back to BUSY, or with nothing queued to nothing."""
    if sk.rtx_queue.first is None and sk.write_queue.first is None:
        _switch(sk, UNSPEC)
    elif kind == sk.chrono_type:
        _switch(sk, BUSY)


def times(sk: TcpSock) -> tuple[int, int, int]:
    """Busy altogether, limited by the peer's window, and by the send buffer (µs; Linux: tcp_get_info_chrono_stats)."""
    stats = [0, 0, 0] if sk.chrono_stat is None else sk.chrono_stat[:]
    if sk.chrono_type:
        stats[sk.chrono_type - 1] += sk.loop.now - sk.chrono_start
    return sum(stats) // 1000, stats[RWND_LIMITED - 1] // 1000, stats[SNDBUF_LIMITED - 1] // 1000
