"""A capture file as a NIC: what it holds is received, with its own timing or as fast as the stack takes it.

For looking at what a stack does with traffic that was recorded elsewhere. What the stack sends has nowhere to go: it
is counted and dropped, or recorded in a file of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, final

from usernet.core.timer import Timer
from usernet.netdevice.driver import ARPHRD_ETHER, ARPHRD_NONE, NETIF_F_SG, Driver
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import pcapng
from usernet.wire.errors import WireError
from usernet.wire.pcapng import PcapReader, PcapRecord

LINK_TYPES: Final = {
    pcapng.LINKTYPE_ETHERNET: ARPHRD_ETHER,
    pcapng.LINKTYPE_RAW: ARPHRD_NONE,
    pcapng.LINKTYPE_IPV4: ARPHRD_NONE,
    pcapng.LINKTYPE_IPV6: ARPHRD_NONE,
}


@final
class Pcap(Driver):
    """A replayed capture. `replayed` counts the packets so far; `finished` tells that the file is at its end;
    `problem` is what is wrong with the file, where it turned out damaged on the way."""

    hw_features = NETIF_F_SG
    queue_length = 0
    kind = "pcap"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        speed: float = 1.0,
        record: str | os.PathLike[str] | None = None,
        interface: str | int | None = None,
    ) -> None:
        """Replay the capture (pcap or pcapng) at `path`; the first packet comes when the device goes up.

        speed: how many times as fast as recorded; 0: all at once, as fast as the stack takes it. record: a pcapng file
        for what the stack sends; replaced where it is there. interface: of a capture of several, the name or number of
        the one to replay; None: the first packet's. Packets of other link types are passed over.

        Raises OSError where a file can't be opened; ValueError where it is no capture, has no packet to replay, or
        its link is neither Ethernet nor IP.
        """
        if not (speed >= 0 and math.isfinite(speed)):
            raise ValueError(f"speed: expected a factor, or 0 for as fast as possible, not {speed!r}")
        self.path: str = os.fspath(path)
        self.speed: float = speed
        self.replayed: int = 0
        self.finished: bool = False
        self.problem: WireError | None = None
        self._interface = interface
        self._dev: Any = None
        self._timer: Timer | None = None
        self._origin: int = 0
        self._began: int = 0
        self._file: BinaryIO | None = open(self.path, "rb")  # noqa: SIM115
        self._out: BinaryIO | None = None
        try:
            self._reader = PcapReader(self._file)
            self._records: Iterator[PcapRecord] = iter(self._reader)
            self._number: int = -1
            self._linktype: int = -1
            first = next((one for one in self._records if self._is_ours(one)), None)
            if first is None:
                what = "" if interface is None else f" of interface {interface!r}"
                raise ValueError(f"{self.path}: there is no packet{what}")
            if first.linktype not in LINK_TYPES:
                raise ValueError(
                    f"{self.path}: expected a capture of Ethernet or IP, not of link type {first.linktype}"
                )
            self._next: PcapRecord | None = first
            self._number = first.if_index
            self._linktype = first.linktype
            self.link_type = LINK_TYPES[first.linktype]
            if record is not None:
                self._out = open(record, "wb")  # noqa: SIM115
                self._out.write(pcapng.section_header())
                self._out.write(pcapng.interface_description("pcap", first.linktype))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Pcap {self.path!r} {self.replayed} packets{', finished' if self.finished else ''}>"

    def _is_ours(self, record: PcapRecord) -> bool:
        if self._number >= 0:
            return record.if_index == self._number and record.linktype == self._linktype
        wanted = self._interface
        if isinstance(wanted, int):
            return record.if_index == wanted
        return wanted is None or self._reader.interfaces[record.if_index].name == wanted

    def _advance(self) -> None:
        """Step to the next packet to replay."""
        try:
            self._next = next((one for one in self._records if self._is_ours(one)), None)
        except WireError as problem:
            self._next = None
            self.problem = problem
            if self._dev is not None:
                self._dev.statistics.rx_errors += 1
        if self._next is None:
            self.finished = True

    def open(self, dev: Any) -> None:
        self._dev = dev
        loop = dev.net.loop
        self._timer = Timer(loop.timers, self._wake)
        if self._next is not None:
            # Where it was stopped, it goes on with the packet that was next.
            self._origin = self._next.ts_ns
            self._began = loop.now
            self._timer.mod(loop.now)

    def stop(self) -> None:
        self._dev = None
        if self._timer is not None:
            self._timer.delete()
            self._timer = None
        if self._out is not None:
            self._out.flush()

    def close(self) -> None:
        for file in (self._file, self._out):
            if file is not None:
                file.close()
        self._file = self._out = None

    def _wake(self, now: int) -> None:
        dev = self._dev
        if dev is not None:
            dev.net.loop.softirq.schedule(dev.napi)

    def _due_at(self, record: PcapRecord) -> int:
        if not self.speed:
            return self._began
        return self._began + max(0, int((record.ts_ns - self._origin) / self.speed))

    def poll(self, budget: int) -> int:
        dev = self._dev
        timer = self._timer
        if dev is None or timer is None:
            return 0
        now = dev.net.loop.now
        receive = dev.napi.receive
        done = 0
        while done < budget:
            record = self._next
            if record is None:
                break
            due = self._due_at(record)
            if due > now:
                timer.mod(due)
                break
            self._advance()
            self.replayed += 1
            done += 1
            receive(SKBuff(record.data))
        return done

    def xmit(self, skb: SKBuff) -> bool:
        dev = self._dev
        if dev is None:
            return False
        if self._out is None:
            dev.statistics.tx_dropped += 1
            skb.drop(DropReason.LINK_FAILURE, dev.net.drops)
            return True
        loop = dev.net.loop
        data = skb.tobytes()
        try:
            self._out.write(pcapng.enhanced_packet(0, loop.now + loop.clock.realtime_offset, (data,), len(data)))
        except OSError:
            dev.statistics.tx_errors += 1
            skb.drop(DropReason.LINK_FAILURE, dev.net.drops)
            return True
        skb.consume()
        return True
