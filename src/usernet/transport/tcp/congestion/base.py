"""The interface of a congestion control, and the registry (Linux: `struct tcp_congestion_ops`, tcp_cong.c).

A controller is a class; each connection has an instance of its own, which holds the controller's state. What it changes
is the connection's `snd_cwnd` (packets) and `snd_ssthresh`. A user's own is a subclass of `CongestionControl` and one
call of `register`.
"""

from __future__ import annotations

import errno
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from usernet.core.errors import error

if TYPE_CHECKING:
    from usernet.transport.tcp.rate import RateSample
    from usernet.transport.tcp.sock import TcpSock

CA_EVENT_TX_START: Final = 0
CA_EVENT_CWND_RESTART: Final = 1
CA_EVENT_COMPLETE_CWR: Final = 2
CA_EVENT_LOSS: Final = 3
CA_EVENT_ECN_NO_CE: Final = 4
CA_EVENT_ECN_IS_CE: Final = 5


class CongestionControl:
    """A congestion control. Define `ssthresh`, and `cong_avoid` (or set `has_cong_control` and define
    `cong_control`, to rule the window alone).

    name: as in net.ipv4.tcp_congestion_control. needs_pacing: segments are paced even without a qdisc that does.
    restricted: only the privileged may choose it, unless it is in tcp_allowed_congestion_control.
    """

    __slots__ = ()

    name: str = ""
    has_cong_control: bool = False
    needs_pacing: bool = False
    restricted: bool = False

    def init(self, sk: TcpSock) -> None:
        """The connection starts to use this controller."""

    def release(self, sk: TcpSock) -> None:
        """The connection ends, or changes its controller."""

    def ssthresh(self, sk: TcpSock) -> int:
        """The slow-start threshold (packets) after a loss."""
        raise NotImplementedError(f"{type(self).__name__} must define ssthresh()")

    def cong_avoid(self, sk: TcpSock, ack: int, acked: int) -> None:
        """`acked` packets were acknowledged, up to sequence number `ack`: grow the window."""
        raise NotImplementedError(f"{type(self).__name__} must define cong_avoid()")

    def cong_control(self, sk: TcpSock, ack: int, flag: int, sample: RateSample) -> None:
        """Called for every acknowledgement in place of all else, where `has_cong_control`."""

    def set_state(self, sk: TcpSock, state: int) -> None:
        """The congestion state (TCP_CA_*) is about to become `state`."""

    def cwnd_event(self, sk: TcpSock, event: int) -> None:
        """CA_EVENT_*."""

    def in_ack_event(self, sk: TcpSock, flags: int) -> None:
        """An acknowledgement arrived."""

    def pkts_acked(self, sk: TcpSock, count: int, rtt_us: int, in_flight: int) -> None:
        """`count` packets were acknowledged, with an RTT sample (µs, negative for none)."""

    def undo_cwnd(self, sk: TcpSock) -> int:
        """The window (packets) to go back to, the loss having been none."""
        return max(sk.snd_cwnd, sk.prior_cwnd)

    def min_tso_segs(self, sk: TcpSock) -> int:
        """The least packets of a super-segment; 0 for the sysctl's."""
        return 0

    def sndbuf_expand(self, sk: TcpSock) -> int:
        """How many windows the send buffer should hold."""
        return 2

    def pack_info(self, sk: TcpSock) -> bytes:
        """What TCP_CC_INFO gives, as `union tcp_cc_info` lays it out; empty for a controller that has nothing there."""
        return b""

    def get_info(self, sk: TcpSock) -> dict[str, Any]:
        """What `ss -i` shows of its state."""
        return {}


def slow_start(sk: TcpSock, acked: int) -> int:
    """Grow by what was acknowledged, up to the threshold; returns what is left (RFC 5681 section 3.1)."""
    cwnd = min(sk.snd_cwnd + acked, sk.snd_ssthresh)
    left = acked - (cwnd - sk.snd_cwnd)
    sk.snd_cwnd = min(cwnd, sk.snd_cwnd_clamp)
    return left


def cong_avoid_ai(sk: TcpSock, window: int, acked: int) -> None:
    """Additive increase: one packet for each `window` acknowledged (Linux: tcp_cong_avoid_ai)."""
    if sk.snd_cwnd_cnt >= window:
        sk.snd_cwnd_cnt = 0
        sk.snd_cwnd += 1
    sk.snd_cwnd_cnt += acked
    if sk.snd_cwnd_cnt >= window:
        delta = sk.snd_cwnd_cnt // window
        sk.snd_cwnd_cnt -= delta * window
        sk.snd_cwnd += delta
    sk.snd_cwnd = min(sk.snd_cwnd, sk.snd_cwnd_clamp)


_REGISTRY: dict[str, type[CongestionControl]] = {}
_MODULES: dict[str, str] = {
    "reno": "usernet.transport.tcp.congestion.reno",
    "cubic": "usernet.transport.tcp.congestion.cubic",
}


def register(control: type[CongestionControl]) -> type[CongestionControl]:
    """Make a controller known by its `name`; serves as a class decorator. Raises ValueError for a name that is no
    name, or that another class has."""
    name = control.name
    if not name or len(name) >= 16 or any(c.isspace() for c in name):
        raise ValueError(f"congestion control: expected a name of 1 to 15 characters without spaces, not {name!r}")
    known = _REGISTRY.get(name)
    if known is not None and known is not control:
        raise ValueError(f"congestion control: {name!r} is registered already, as {known.__qualname__}")
    _REGISTRY[name] = control
    return control


def find(name: str) -> type[CongestionControl]:
    """The controller of that name, loaded when first named. Raises OSError ENOENT where there is none."""
    control = _REGISTRY.get(name)
    if control is None:
        module = _MODULES.get(name)
        if module is None:
            raise error(errno.ENOENT, f"no congestion control named {name!r}; there are: {', '.join(available())}")
        import_module(module)
        control = _REGISTRY[name]
    return control


def available() -> list[str]:
    """The names of all controllers."""
    return sorted(set(_MODULES) | set(_REGISTRY))
