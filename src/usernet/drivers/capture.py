"""Capture: what the devices of a stack receive and send, written to a pcapng file for Wireshark (Linux: packet(7)).

A tap on the devices, as tcpdump's, writes each packet with its link header, its interface and its direction, at the
moment the stack handles it. A probe on kfree_skb writes each dropped packet once more, with the reason as its comment.

What is written is what the stack saw: a super-segment is one large packet, and a packet that a device is to complete
has an incomplete checksum, as in a capture made on any host with offloads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import BinaryIO, Final, Self, final

from usernet.core.iov import Payload
from usernet.net.packet_type import PacketTypes, Tap
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_NONE
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import PACKET_OUTGOING, SKBuff
from usernet.wire import ethernet, pcapng
from usernet.wire.pcapng import enhanced_packet as _enhanced_packet

NO_DEVICE: Final = "none"
"""The interface under which packets are filed that were dropped before they had a device or a link header."""

_INBOUND = pcapng.EPB_INBOUND
_OUTBOUND = pcapng.EPB_OUTBOUND


@final
class Capture:
    """A capture of one stack. `packets` and `dropped` count what was written, `bytes` the file's length so far.

    `with Capture(net, path):` starts it, unless it runs already, and stops it at the end.
    """

    def __init__(
        self,
        net: Net,
        file: str | os.PathLike[str] | BinaryIO,
        devices: Iterable[NetDevice] | None = None,
        *,
        snaplen: int = 0,
        drops: bool = True,
    ) -> None:
        """Make ready to capture to `file`: a path, which is replaced, or a file open for writing, which stays open.

        devices: those to look at; None for all, those that come later too. snaplen: bytes to keep of each packet, 0
        for all. drops: whether to write dropped packets, with the reason.

        Raises ValueError for a snaplen below 0, OSError where the file can't be written.
        """
        if snaplen < 0:
            raise ValueError(f"snaplen: expected a number of bytes, or 0 for all, not {snaplen!r}")
        self.packets: int = 0
        self.dropped: int = 0
        self.bytes: int = 0
        self.snaplen: int = snaplen
        self.running: bool = False
        self._net = net
        self._drops = drops
        self._devices = None if devices is None else list(devices)
        self._taps: list[Tap] = []
        self._interfaces: dict[object, int] = {}
        self._on_stop: list[Callable[[], None]] = []
        self._problem: OSError | None = None
        self._owned: bool = isinstance(file, (str, os.PathLike))
        self._file: BinaryIO = open(file, "wb") if isinstance(file, (str, os.PathLike)) else file  # noqa: SIM115
        self._write(pcapng.section_header())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Begin. Nothing happens where it has begun."""
        if self.running or self._file.closed:
            return self
        entered = self._enter()
        try:
            self.running = True
            chosen = self._devices
            for dev in self._net.get(DeviceNamespace).values() if chosen is None else chosen:
                self._interface(dev)
            self._taps = [Tap(self._show, dev=dev) for dev in chosen] if chosen is not None else [Tap(self._show)]
            types = self._net.get(PacketTypes)
            for tap in self._taps:
                types.add_tap(tap)
            if self._drops:
                self._net.trace.kfree_skb.attach(self._show_drop)
        finally:
            self._leave(entered)
        return self

    def stop(self) -> None:
        """End, and close the file. Nothing happens the second time.

        Raises OSError where writing failed on the way (a full disk); what came before is in the file.
        """
        if not self.running:
            self._close()
            return
        entered = self._enter()
        try:
            self.running = False
            types = self._net.get(PacketTypes)
            for tap in self._taps:
                types.remove_tap(tap)
            self._taps.clear()
            if self._drops:
                self._net.trace.kfree_skb.detach(self._show_drop)
        finally:
            self._leave(entered)
        callbacks, self._on_stop = self._on_stop, []
        for callback in callbacks:
            callback()
        self._close()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the capture has ended."""
        self._on_stop.append(callback)

    def flush(self) -> None:
        """Have all that was captured so far in the file. Raises OSError where it can't be written."""
        entered = self._enter()
        try:
            if not self._file.closed:
                self._file.flush()
        finally:
            self._leave(entered)

    def _enter(self) -> bool:
        loop = self._net.loop
        if loop.inside or loop.unusable:
            return False
        loop.enter()
        return True

    def _leave(self, entered: bool) -> None:
        if entered:
            self._net.loop.leave()

    def _close(self) -> None:
        problem, self._problem = self._problem, None
        if not self._file.closed:
            try:
                if self._owned:
                    self._file.close()
                else:
                    self._file.flush()
            except OSError as late:
                problem = problem or late
        if problem is not None:
            raise problem

    # -- under the stack's lock

    def _interface(self, dev: NetDevice | None) -> int:
        """The interface's number in the file; it is described there when first met."""
        number = self._interfaces.get(dev)
        if number is None:
            number = self._interfaces[dev] = len(self._interfaces)
            raw = dev is None or dev.link_type == ARPHRD_NONE
            linktype = pcapng.LINKTYPE_RAW if raw else pcapng.LINKTYPE_ETHERNET
            name = NO_DEVICE if dev is None else dev.name
            self._write(pcapng.interface_description(name, linktype, self.snaplen))
        return number

    def _write(self, block: bytes) -> None:
        # Packets must go on whatever becomes of the file, so a full disk is told of when the capture is stopped.
        if self._problem is None:
            try:
                self._file.write(block)
            except OSError as problem:
                self._problem = problem
                return
            self.bytes += len(block)

    def _show(self, skb: SKBuff) -> None:
        """The tap: `data` is at the network header, the link header before it."""
        dev: NetDevice = skb.dev
        number = self._interfaces.get(dev)
        if number is None:
            number = self._interface(dev)
        start = skb.mac_header if 0 <= skb.mac_header <= skb.data else skb.data
        loop = self._net.loop
        outgoing = skb.pkt_type == PACKET_OUTGOING
        when = loop.now + loop.clock.realtime_offset if outgoing or not skb.tstamp else skb.tstamp
        parts, size = self._parts(skb, start)
        self._write(_enhanced_packet(number, when, parts, size, None, _OUTBOUND if outgoing else _INBOUND))
        self.packets += 1

    def _show_drop(self, skb: SKBuff, reason: DropReason) -> None:
        """The probe: the packet is in whatever state it was dropped in."""
        dev: NetDevice | None = skb.dev
        if self._devices is not None and dev not in self._devices:
            return
        start = skb.mac_header
        if dev is None or start < 0 or start > skb.tail:
            dev = None
            start = skb.network_header
            if start < 0 or start >= skb.tail or skb.head[start] >> 4 not in (4, 6):
                # Not even a network header: dropped by a transport before it was a packet.
                return
        elif dev.has_link_header and start + ethernet.ETH_HLEN > skb.tail:
            return
        loop = self._net.loop
        parts, size = self._parts(skb, start)
        comment = f"dropped: {reason.name}"
        when = loop.now + loop.clock.realtime_offset
        self._write(_enhanced_packet(self._interface(dev), when, parts, size, comment))
        self.dropped += 1

    def _parts(self, skb: SKBuff, start: int) -> tuple[list[Payload], int]:
        """The packet's bytes from `start` of `head` on, at most snaplen of them, and how many there are in all."""
        head = skb.head
        tail = skb.tail
        parts: list[Payload] = [head if start == 0 and tail == len(head) else head[start:tail]]
        if skb.frags:
            parts += skb.frags
        size = tail - start + skb.data_len
        snaplen = self.snaplen
        if not snaplen or size <= snaplen:
            return parts, size
        kept: list[Payload] = []
        for part in parts:
            kept.append(part if len(part) <= snaplen else part[:snaplen])
            snaplen -= len(kept[-1])
            if not snaplen:
                break
        return kept, size
