"""The interface of a congestion control, and the registry (Linux: `struct tcp_congestion_ops`, tcp_cong.c).

A controller is a class; each connection has an instance of its own, which holds the controller's state. What it changes
is the connection's `snd_cwnd` (packets) and `snd_ssthresh`, and, where it rules alone, `pacing_rate` (bytes a second).
A user's own is a subclass of `CongestionControl` and one call of `register`. docs/congestion.md tells which callback
comes when.
"""

from __future__ import annotations

import errno
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from usernet.core.errors import error
from usernet.core.native import mypyc_attr
from usernet.net.pacing import SK_PACING_NEEDED, SK_PACING_NONE
from usernet.net.pernet import Net

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.rate import RateSample
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.state import TcpState

CA_EVENT_TX_START: Final = 0
CA_EVENT_CWND_RESTART: Final = 1
CA_EVENT_COMPLETE_CWR: Final = 2
CA_EVENT_LOSS: Final = 3
CA_EVENT_ECN_NO_CE: Final = 4
CA_EVENT_ECN_IS_CE: Final = 5
CA_EVENT_TLP_RECOVERY: Final = 6
"""A loss probe repaired a loss that nothing else showed (of google/bbr; not in Linux)."""

TCP_CA_NAME_MAX: Final = 16
_INET_ECN_MASK: Final = 3
_INET_ECN_ECT_0: Final = 2


@mypyc_attr(allow_interpreted_subclasses=True)
class CongestionControl:
    """A congestion control. Define `ssthresh`, and `cong_avoid`, or `cong_control` to rule the window alone.

    name: as in net.ipv4.tcp_congestion_control. needs_pacing: segments are paced even without a qdisc that does.
    needs_ecn: its connections ask for ECN whatever tcp_ecn says, and all their packets are ECN-capable
    (TCP_CONG_NEEDS_ECN). needs_accecn: they ask for, and agree to, accurate ECN; no_fallback_rfc3168: classic ECN is
    not taken instead; ect_1_negotiation: the handshake is marked ECT(1), not ECT(0). restricted: only the privileged
    may choose it, unless it is in tcp_allowed_congestion_control.

    has_cong_control, has_in_ack_event, has_skb_marked_lost: whether the class defines that callback; `register` sets
    them, so that acknowledgements don't pay for callbacks that nobody defined.
    """

    __slots__ = ()

    name: ClassVar[str] = ""
    has_cong_control: ClassVar[bool] = False
    has_in_ack_event: ClassVar[bool] = False
    has_skb_marked_lost: ClassVar[bool] = False
    needs_pacing: ClassVar[bool] = False
    needs_ecn: ClassVar[bool] = False
    restricted: ClassVar[bool] = False
    needs_accecn: ClassVar[bool] = False
    no_fallback_rfc3168: ClassVar[bool] = False
    ect_1_negotiation: ClassVar[bool] = False

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
        """Called for every acknowledgement in place of `cong_avoid`, of the reduction of the window after a loss, and
        of the setting of the pacing rate."""

    def set_state(self, sk: TcpSock, state: int) -> None:
        """The congestion state (TCP_CA_*) is about to become `state`."""

    def cwnd_event(self, sk: TcpSock, event: int) -> None:
        """CA_EVENT_*."""

    def in_ack_event(self, sk: TcpSock, flag: int) -> None:
        """An acknowledgement arrived, and what it delivered is counted; `flag`: FLAG_* (const.py)."""

    def pkts_acked(self, sk: TcpSock, count: int, rtt_us: int, in_flight: int) -> None:
        """`count` packets were acknowledged, with an RTT sample (µs, negative for none)."""

    def skb_marked_lost(self, sk: TcpSock, skb: SKBuff) -> None:
        """A segment was found to be lost."""

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
        """What `ss -i` shows of its state, between the brackets of `name:(…)`."""
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


def reno_cong_avoid(sk: TcpSock, acked: int) -> None:
    """Reno's growth, which others share (Linux: tcp_reno_cong_avoid)."""
    if not sk.cwnd_limited():
        return
    if sk.snd_cwnd < sk.snd_ssthresh:
        acked = slow_start(sk, acked)
        if not acked:
            return
    cong_avoid_ai(sk, sk.snd_cwnd, acked)


# -- a connection's controller


def mark_capable(sk: TcpState) -> None:
    """All packets of a connection that needs ECN are ECN-capable; of another none is, but what ecn.py marks."""
    sk.tos = sk.tos & ~_INET_ECN_MASK | (_INET_ECN_ECT_0 if sk.ca.needs_ecn else 0)


def assign(sk: TcpSock, control: CongestionControl) -> None:
    """Have the socket use `control`, whose `init` is called when its connection is there (Linux:
    tcp_assign_congestion_control)."""
    sk.ca = control
    mark_capable(sk)


def assign_from_route(sk: TcpSock) -> None:
    """Use the controller that the route names, if any (Linux: tcp_ca_dst_init)."""
    dst = sk.dst
    if dst is not None and dst.congestion_control and dst.congestion_control != sk.ca.name:
        assign(sk, find(dst.congestion_control)())


def start(sk: TcpSock) -> None:
    """The connection is there, or has changed its controller (Linux: tcp_init_congestion_control)."""
    sk.prior_ssthresh = 0
    sk.ca.init(sk)
    # `init` may have put another in its place.
    mark_capable(sk)
    if sk.ca.needs_pacing and sk.pacing_status == SK_PACING_NONE:
        sk.pacing_status = SK_PACING_NEEDED
    sk.ca_ready = True


# -- the registry

_REGISTRY: dict[str, type[CongestionControl]] = {}
_MODULES: dict[str, str] = {
    name: f"usernet.transport.tcp.congestion.{name}" for name in ("reno", "cubic", "dctcp", "bbr", "bbr3")
}


def register(control: type[CongestionControl]) -> type[CongestionControl]:
    """Make a controller known by its `name`; serves as a class decorator. Raises ValueError for a name that is no
    name, or that another class has, and for a class that lacks what every controller must define."""
    name = control.name
    if not name or len(name) >= TCP_CA_NAME_MAX or any(c.isspace() for c in name):
        raise ValueError(f"congestion control: expected a name of 1 to 15 characters without spaces, not {name!r}")
    known = _REGISTRY.get(name)
    if known is not None and known is not control:
        raise ValueError(f"congestion control: {name!r} is registered already, as {known.__qualname__}")
    base = CongestionControl
    control.has_cong_control = control.cong_control is not base.cong_control
    control.has_in_ack_event = control.in_ack_event is not base.in_ack_event
    control.has_skb_marked_lost = control.skb_marked_lost is not base.skb_marked_lost
    if control.ssthresh is base.ssthresh or not (control.has_cong_control or control.cong_avoid is not base.cong_avoid):
        raise ValueError(f"congestion control: {name!r} must define ssthresh(), and cong_avoid() or cong_control()")
    _REGISTRY[name] = control
    return control


def unregister(control: type[CongestionControl]) -> None:
    """Forget a controller; connections that have it keep it. Nothing happens where it isn't registered."""
    if _REGISTRY.get(control.name) is control:
        del _REGISTRY[control.name]


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


@final
class CongestionNames:
    """The sysctls that list controllers. Whoever holds a stack may choose any, so `allowed` is only remembered."""

    def __init__(self, net: Net) -> None:
        self.tcp_allowed_congestion_control: str = " ".join(available())
        net.sysctl.register("net.ipv4.tcp_allowed_congestion_control", self, choices=available)
        net.sysctl.register("net.ipv4.tcp_available_congestion_control", self, read_only=True)

    @property
    def tcp_available_congestion_control(self) -> str:
        return " ".join(available())
