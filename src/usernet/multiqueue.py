"""Workers: one process for each queue of a TAP or TUN, together one host (Linux: receive-side scaling, SO_REUSEPORT).

The kernel spreads flows over the queues by their hash, and each worker is a whole stack on one queue, with the same
addresses and the same MAC address: they share nothing. A server listens in every worker, and each gets the connections
of its queue; that is what SO_REUSEPORT gives to processes on one host.

What a worker sends on a flow brings the flow's packets to its own queue (tun_flow_update); but the kernel forgets that
within seconds of silence, and some packets have a hash of their own. So a worker passes on what is not for it alone:

- Each has its own part of net.ipv4.ip_local_port_range, so a port there tells whose connection it is; a packet that
  came to the wrong queue goes to the worker that has it.
- Errors that ICMP reports, and echo replies, may be anyone's, and ARP replies are of use to everyone: a copy to each.

So a server listens on a port outside net.ipv4.ip_local_port_range; and a connection made from such a port, which a
program binds by itself, is found only while the kernel remembers it. Of broadcasts and multicasts one worker gets each.
A worker that ends takes its queue with it, and the kernel spreads the flows anew over those that are left.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Final, Self, final

from usernet.core.errors import check_type
from usernet.core.softirq import Napi
from usernet.drivers.tuntap import TunTap
from usernet.net.hooks import NF_ACCEPT, NF_STOLEN, Hooks
from usernet.net.packet_type import PacketTypes
from usernet.netdevice.device import NetDevice
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, SKBuff
from usernet.stack import Stack
from usernet.wire import ethernet

Main = Callable[[Stack, int], object]

LINK_BUFFER: Final = 4 << 20
"""Bytes of passed-on packets that wait for one worker (SO_RCVBUF); what does not fit is dropped."""

_LARGEST: Final = 1 << 19
_IPPROTO_ICMP: Final = 1
_ICMP_FOR_ALL: Final = frozenset((0, 3, 4, 5, 11, 12))
_PORTS: Final = frozenset((6, 17))
_ARPOP_REPLY: Final = b"\0\2"


@final
class WorkerLink(Napi):
    """One worker's end of the links between all: passes on what came to the wrong queue, and receives what others do.

    peers: how to reach each worker, by number. passed, received: packets so far. lost: those for which there was no
    room.
    """

    def __init__(self, stack: Stack, dev: NetDevice, number: int, inbox: socket.socket, peers: list[socket.socket]):
        super().__init__()
        self.passed: int = 0
        self.received: int = 0
        self.lost: int = 0
        self._dev = dev
        self._number = number
        self._inbox = inbox
        self._peers = peers
        self._relayed = False
        net = stack.net
        self._net = net
        low, high = split_ports(stack.sysctl["net.ipv4.ip_local_port_range"], len(peers), number)
        self._low, whole = _range(stack.sysctl["net.ipv4.ip_local_port_range"])
        self._share: int = (whole + 1 - self._low) // len(peers)
        stack.sysctl["net.ipv4.ip_local_port_range"] = f"{low} {high}"
        net.get(Hooks).local_in.register(self._local_in, -300)
        handlers = net.get(PacketTypes).handlers
        self._arp_receive = handlers[ethernet.ETH_P_ARP]
        handlers[ethernet.ETH_P_ARP] = self._arp

    def owner(self, port: int) -> int:
        """Which worker's a local port is; -1 for one outside the range, which is everyone's."""
        number = (port - self._low) // self._share
        return number if 0 <= number < len(self._peers) else -1

    def _local_in(self, skb: SKBuff, indev: Any, outdev: Any) -> int:
        """A packet for this host, `data` at its IPv4 header."""
        if indev is not self._dev or self._relayed:
            return NF_ACCEPT
        head = skb.head
        start = skb.data
        protocol = head[start + 9]
        transport = start + ((head[start] & 15) << 2)
        if protocol in _PORTS and transport + 4 <= skb.tail:
            owner = self.owner(head[transport + 2] << 8 | head[transport + 3])
            if owner < 0 or owner == self._number:
                return NF_ACCEPT
            if self._pass_on(skb, owner):
                skb.consume()
            else:
                skb.drop(DropReason.CPU_BACKLOG, self._net.drops)
            return NF_STOLEN
        if protocol == _IPPROTO_ICMP and transport < skb.tail and head[transport] in _ICMP_FOR_ALL:
            self._tell_all(skb)
        return NF_ACCEPT

    def _arp(self, skb: SKBuff) -> None:
        if not self._relayed and skb.dev is self._dev and skb.head[skb.data + 6 : skb.data + 8] == _ARPOP_REPLY:
            self._tell_all(skb)
        self._arp_receive(skb)

    def _tell_all(self, skb: SKBuff) -> None:
        for number in range(len(self._peers)):
            if number != self._number:
                self._pass_on(skb, number)

    def _pass_on(self, skb: SKBuff, number: int) -> bool:
        """Give another worker a copy, `data` at the network header. False where it has no room, or is gone."""
        vouched = skb.ip_summed in (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL)
        parts: list[bytes | memoryview] = [
            bytes((vouched, skb.pkt_type)), skb.protocol.to_bytes(2, "big"), skb.head[skb.data : skb.tail],
            *(skb.frags or ()),
        ]  # fmt: skip
        try:
            self._peers[number].sendmsg(parts)
        except OSError:
            self.lost += 1
            return False
        self.passed += 1
        return True

    def start(self) -> None:
        """Receive from now on: the stack is started."""
        trampoline = self._net.loop.trampoline
        assert trampoline is not None
        trampoline.watch(self._inbox.fileno(), self._net.loop, self)

    def stop(self) -> None:
        """The end of `start`."""
        trampoline = self._net.loop.trampoline
        if trampoline is not None:
            trampoline.unwatch(self._inbox.fileno())

    def poll(self, budget: int) -> int:
        done = 0
        try:
            while done < budget:
                message = self._inbox.recv(_LARGEST)
                done += 1
                self._receive(message)
        except BlockingIOError:
            pass
        return done

    def _receive(self, message: bytes) -> None:
        """Another worker's packet goes up as if this one's queue had brought it."""
        self.received += 1
        skb = SKBuff(message, 4)
        skb.ip_summed = CHECKSUM_UNNECESSARY if message[0] else skb.ip_summed
        skb.pkt_type = message[1]
        skb.protocol = int.from_bytes(message[2:4], "big")
        skb.network_header = 4
        skb.dev = self._dev
        self._relayed = True
        try:
            self._dev.receive(skb)
        finally:
            self._relayed = False


def _range(setting: object) -> tuple[int, int]:
    low, high = setting if isinstance(setting, tuple) else str(setting).split()
    return int(low), int(high)


def split_ports(setting: object, count: int, number: int) -> tuple[int, int]:
    """The part of a port range that is worker `number`'s of `count`."""
    low, high = _range(setting)
    share = (high + 1 - low) // count
    return low + number * share, low + (number + 1) * share - 1


@final
class Workers:
    """Running workers. `with` stops them at the end."""

    def __init__(self, device: TunTap, main: Main, addresses: Sequence[str], mac: str | None, name: str) -> None:
        self._main = main
        self._addresses = addresses
        self._name = name
        self._device = device
        self._mac = mac or bytes((2, *os.urandom(5))).hex(":")
        count = device.queues
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        for receiver, sender in pairs:
            for end in (receiver, sender):
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LINK_BUFFER)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LINK_BUFFER)
        self._inboxes = [receiver for receiver, _ in pairs]
        self._peers = [sender for _, sender in pairs]
        context = multiprocessing.get_context("fork")
        self.processes: list[BaseProcess] = []
        try:
            for number in range(count):
                process = context.Process(target=self._run, args=(number,), name=f"{name}{number}", daemon=True)
                process.start()
                self.processes.append(process)
        except BaseException:
            self.stop()
            raise
        finally:
            # The queues are the workers' alone: a dead one's packets go to the others.
            device.close()
            for end in (*self._inboxes, *self._peers):
                end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<usernet.Workers {self._name!r} on {self._device.name}, processes: {self.pids}>"

    def _run(self, number: int) -> None:
        """The life of a worker, in its process."""
        self._device.keep(number)
        for other, inbox in enumerate(self._inboxes):
            if other != number:
                inbox.close()
        mac = self._mac if self._device.kind == "tap" else None
        with Stack(f"{self._name}{number}") as stack:
            dev = stack.add_device(self._device, "eth0", *self._addresses, mac=mac)
            link = WorkerLink(stack, dev, number, self._inboxes[number], self._peers)
            link.start()
            try:
                self._main(stack, number)
            finally:
                link.stop()

    @property
    def pids(self) -> list[int]:
        """The processes, by the number of their worker."""
        return [process.pid or 0 for process in self.processes]

    @property
    def exit_codes(self) -> list[int | None]:
        """How each ended: 0 where its `main` returned, None while it runs."""
        return [process.exitcode for process in self.processes]

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, `timeout` seconds for each at most. False where some run on."""
        for process in self.processes:
            process.join(timeout)
        return all(code is not None for code in self.exit_codes)

    def stop(self) -> None:
        """End them (SIGTERM), and wait for it."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


def workers(device: TunTap, main: Main, *addresses: str, mac: str | None = None, name: str = "worker") -> Workers:
    """Start a process for each queue of `device`, in each a stack with it as eth0, and call `main(stack, number)`.

    device: `drivers.Tap("tap0", queues=4)`, which belongs to the workers from now on. addresses: of all of them
    together ("10.0.0.2/24"). mac: theirs; a random one by default. A worker ends when its `main` returns.

    Raises TypeError for a device without queues.
    """
    check_type("device", device, TunTap, "a drivers.Tap or drivers.Tun")
    return Workers(device, main, addresses, mac, name)
