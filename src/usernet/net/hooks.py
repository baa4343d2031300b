"""Hooks on the way of a packet, for filters and address translation (Linux: netfilter's `nf_register_net_hook`)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.net.pernet import Net

NF_INET_PRE_ROUTING: Final = 0
NF_INET_LOCAL_IN: Final = 1
NF_INET_FORWARD: Final = 2
NF_INET_LOCAL_OUT: Final = 3
NF_INET_POST_ROUTING: Final = 4

NF_DROP: Final = 0
NF_ACCEPT: Final = 1
NF_STOLEN: Final = 2

Hook = Callable[[SKBuff, Any, Any], int]
"""`hook(skb, in_device, out_device)` returns NF_ACCEPT, NF_DROP, or NF_STOLEN (it keeps the packet)."""


@final
class HookPoint:
    """One point's hooks in order of priority. `entries` is public: the data path tests it before it calls `run`."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.entries: list[tuple[int, int, Hook]] = []
        self._serial = 0

    def register(self, hook: Hook, priority: int = 0) -> None:
        """Lower priorities run first (Linux: NF_IP_PRI_FILTER is 0)."""
        self._serial += 1
        # A new list, as in `unregister`: a packet may be on its way through the old one.
        entries = [*self.entries]
        insort(entries, (priority, self._serial, hook))
        self.entries = entries

    def unregister(self, hook: Hook) -> None:
        self.entries = [entry for entry in self.entries if entry[2] != hook]

    def run(self, skb: SKBuff, indev: Any, outdev: Any) -> bool:
        """True where the packet goes on; else it was dropped or kept by a hook."""
        for _, _, hook in self.entries:
            verdict = hook(skb, indev, outdev)
            if verdict == NF_ACCEPT:
                continue
            if verdict != NF_STOLEN:
                skb.drop(DropReason.NETFILTER_DROP, self._net.drops)
            return False
        return True


@final
class Hooks:
    """The five points of one namespace, shared by the address families (a hook looks at `skb.protocol`)."""

    def __init__(self, net: Net) -> None:
        self.points = tuple(HookPoint(net) for _ in range(5))
        self.pre_routing, self.local_in, self.forward, self.local_out, self.post_routing = self.points
