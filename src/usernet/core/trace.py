"""Tracepoints: named places where something can be seen happening, at the cost of one test where nobody looks.

A probe is called inside the stack, under its lock: it may record, but not call the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

TRACEPOINTS: Final = (
    "kfree_skb",  # (skb, reason): a packet was dropped
    "netif_receive_skb",  # (skb): a device handed a packet to the stack
    "net_dev_xmit",  # (skb, accepted): a driver was given a packet
    "neigh_update",  # (neighbour, old state, new state)
    "inet_sock_set_state",  # (sk, old state, new state)
    "tcp_retransmit_skb",  # (sk, skb)
    "tcp_send_reset",  # (sk or None, skb)
    "tcp_receive_reset",  # (sk)
    "tcp_probe",  # (sk, skb): a segment was received on an established connection
    "tcp_cong_state_set",  # (sk, new state)
    "tcp_cwnd",  # (sk): cwnd or ssthresh changed
)


@final
class Tracepoint:
    """One tracepoint. `probes` is public so that the data path can test it without a call."""

    __slots__ = ("name", "probes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.probes: list[Callable[..., None]] = []

    def attach(self, probe: Callable[..., None]) -> None:
        self.probes.append(probe)

    def detach(self, probe: Callable[..., None]) -> None:
        self.probes.remove(probe)

    def fire(self, *args: Any) -> None:
        for probe in tuple(self.probes):
            probe(*args)


@final
class Trace:
    """The tracepoints of one stack, as attributes: `stack.trace.kfree_skb.attach(probe)`."""

    def __init__(self) -> None:
        self.kfree_skb = Tracepoint("kfree_skb")
        self.netif_receive_skb = Tracepoint("netif_receive_skb")
        self.net_dev_xmit = Tracepoint("net_dev_xmit")
        self.neigh_update = Tracepoint("neigh_update")
        self.inet_sock_set_state = Tracepoint("inet_sock_set_state")
        self.tcp_retransmit_skb = Tracepoint("tcp_retransmit_skb")
        self.tcp_send_reset = Tracepoint("tcp_send_reset")
        self.tcp_receive_reset = Tracepoint("tcp_receive_reset")
        self.tcp_probe = Tracepoint("tcp_probe")
        self.tcp_cong_state_set = Tracepoint("tcp_cong_state_set")
        self.tcp_cwnd = Tracepoint("tcp_cwnd")

    def __getitem__(self, name: str) -> Tracepoint:
        """The tracepoint of that name; KeyError names those that exist."""
        if name not in TRACEPOINTS:
            raise KeyError(f"no tracepoint named {name!r}; there are: {', '.join(TRACEPOINTS)}")
        point: Tracepoint = getattr(self, name)
        return point
