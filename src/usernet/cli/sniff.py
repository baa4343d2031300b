"""Looking at a stack's packets as they pass: what `usernet tcpdump` and the demo show."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from usernet.cli.packet import Packet
from usernet.net.packet_type import PacketTypes, Tap
from usernet.netdevice.device import NetDevice
from usernet.skbuff.skbuff import PACKET_OUTGOING, SKBuff
from usernet.stack import Stack
from usernet.wire import pcapng


@final
class Sniffer:
    """Shows each packet of `stack` (of `device`, where that is given) to `deliver`, once the stack's lock is free.

    `with Sniffer(stack, print):` begins and ends it.
    """

    def __init__(self, stack: Stack, deliver: Callable[[Packet], None], device: NetDevice | None = None) -> None:
        self._stack = stack
        self._deliver = deliver
        self._tap = Tap(self._show, dev=device)
        self._seen: deque[Packet] = deque()

    def __enter__(self) -> Self:
        self._stack.net.get(PacketTypes).add_tap(self._tap)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._stack.closed:
            self._stack.net.get(PacketTypes).remove_tap(self._tap)

    def _show(self, skb: SKBuff) -> None:
        start = skb.mac_header if 0 <= skb.mac_header <= skb.data else skb.data
        dev: NetDevice = skb.dev
        loop = self._stack.loop
        data = b"".join((skb.head[start : skb.tail], *(skb.frags or ())))
        linktype = pcapng.LINKTYPE_ETHERNET if dev.has_link_header else pcapng.LINKTYPE_RAW
        packet = Packet(data, linktype, loop.now + loop.clock.realtime_offset, 0, dev.name)
        packet.outgoing = skb.pkt_type == PACKET_OUTGOING
        self._seen.append(packet)
        if len(self._seen) == 1:
            loop.after(self._flush)

    def _flush(self) -> None:
        seen = self._seen
        while seen:
            self._deliver(seen.popleft())
