"""Hosts for the tests of transports: IPv4 on one namespace, joined by cables in memory, on virtual time.

`Host` has no stack.py above it: `call` enters and leaves as a system call does, `run` runs everything that is due on
some hosts until nothing is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, TypeVar

from usernet.core.clock import ManualClock
from usernet.core.iov import CollectIter, SourceIter
from usernet.core.timer import NEVER
from usernet.core.wait import Blocking, Wait
from usernet.drivers.loopback import Loopback
from usernet.drivers.veth import veth
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.ipv4 import Ipv4
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import Driver
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.sock.msg import MSG_DONTWAIT, Control, MsgHdr, Name, SockAddr
from usernet.sock.sock import Sock, SockNet
from usernet.transport.ping import Ping, PingSock
from usernet.transport.raw import Raw, RawSock
from usernet.transport.udp import Udp
from usernet.transport.udp_sock import UdpSock
from usernet.wire.ipv4 import parse_addr

_T = TypeVar("_T")
REALTIME = 1_700_000_000_000_000_000


def at(text: str, port: int = 0) -> SockAddr:
    """A socket address: `at("10.0.0.1", 80)`; the family's any for "0.0.0.0"."""
    return SockAddr(2, parse_addr(text), port)


class Host:
    """One namespace with IPv4, UDP, raw and ping sockets, and lo."""

    def __init__(self, name: str = "host", clock: ManualClock | None = None, seed: int = 1) -> None:
        self.clock = clock or ManualClock(0, REALTIME)
        self.net = Net(name, self.clock, random.Random(seed))
        self.net.get(SockNet)
        self.devices = self.net.get(DeviceNamespace)
        self.ipv4 = self.net.get(Ipv4)
        self.udp = self.net.get(Udp)
        self.raw = self.net.get(Raw)
        self.ping = self.net.get(Ping)
        self.add(Loopback(), "lo", "127.0.0.1", 8)

    @contextmanager
    def inside(self) -> Any:
        self.net.loop.enter()
        try:
            yield
        finally:
            self.net.loop.leave()

    def call(self, function: Callable[..., _T], *args: Any) -> _T:
        """A system call."""
        with self.inside():
            return function(*args)

    def add(self, driver: Driver, name: str, address: str, length: int = 24) -> NetDevice:
        with self.inside():
            dev = self.devices.register(driver, name)
            self.devices.set_up(dev)
            self.net.get(Devinet).add(dev, parse_addr(address), length)
        return dev

    # -- sockets

    def udp_socket(self, address: str | None = None, port: int = 0, *, reuse: bool = False) -> UdpSock:
        with self.inside():
            sk = UdpSock(self.net, self.ipv4.af)
            sk.reuse = reuse
            if address is not None:
                sk.bind(at(address, port))
        return sk

    def raw_socket(self, protocol: int) -> RawSock:
        return self.call(RawSock, self.net, self.ipv4.af, protocol)

    def ping_socket(self) -> PingSock:
        return self.call(PingSock, self.net, self.ipv4.af)

    def send(
        self, sk: Sock, data: bytes, to: Name | None = None, flags: int = MSG_DONTWAIT,
        control: list[Control] | None = None,
    ) -> int:  # fmt: skip
        """Send without waiting; returns what sendmsg does."""
        with self.inside():
            result = sk.sendmsg(MsgHdr(SourceIter((data,)), to, control), flags, self.net.loop.now)
        assert isinstance(result, int)
        return result

    def receive(self, sk: Sock, size: int = 65536, flags: int = MSG_DONTWAIT) -> tuple[bytes, MsgHdr]:
        """Receive without waiting: the data, and the message with name, flags and ancillary data."""
        sink = CollectIter(size)
        msg = MsgHdr(sink)
        with self.inside():
            result = sk.recvmsg(msg, flags, self.net.loop.now)
        assert isinstance(result, int)
        return sink.getvalue(), msg

    def recv(self, sk: Sock, size: int = 65536, flags: int = MSG_DONTWAIT) -> bytes:
        return self.receive(sk, size, flags)[0]

    def drops(self, reason: DropReason) -> int:
        return self.net.drops.counts.get(reason, 0)

    def close(self, *sockets: Sock) -> None:
        for sk in sockets:
            self.call(sk.close)

    def end(self) -> None:
        """Close what is open, and the namespace; nothing may be left of either."""
        with self.inside():
            for sk in tuple(self.net.get(SockNet).sockets):
                sk.close()
            left = list(self.net.get(SockNet).sockets)
            table = self.udp.table
            held = [table.ports.buckets, table.connected, table.bound, self.raw.sockets, self.ping.ports.buckets]
            self.devices.close()
            self.net.close()
        assert not left
        assert held == [{}, {}, {}, {}, {}]
        assert not table.gro


def run(*hosts: Host, until: int = 0) -> None:
    """Run what is due on the hosts until all is quiet, moving time on up to `until` (ns)."""
    while True:
        busy = True
        while busy:
            busy = False
            for host in hosts:
                host.net.loop.poll(host.clock.now())
                busy = busy or any(not other.net.loop.softirq.idle for other in hosts)
        deadlines = [host.net.loop.timers.next_deadline() for host in hosts]
        following = min(deadlines)
        if following == NEVER or following > until:
            return
        for clock in {id(host.clock): host.clock for host in hosts}.values():
            clock.set(max(following, clock.now()))


def pair(**impairments: Any) -> tuple[Host, Host]:
    """Two hosts, 10.0.0.1 and 10.0.0.2, on one cable eth0 and one clock."""
    clock = ManualClock(0, REALTIME)
    left, right = Host("left", clock, 1), Host("right", clock, 2)
    one, two = veth(**impairments)
    left.add(one, "eth0", "10.0.0.1")
    right.add(two, "eth0", "10.0.0.2")
    return left, right


class Blocked:
    """A call that waits, resumed by hand: `poll` runs it on where what it waits for is so, or its time has come."""

    def __init__(self, host: Host, call: Blocking[Any] | Any) -> None:
        self.host = host
        self.result: Any = None
        self.done = False
        self._wait: Wait | None = None
        self._call = call
        self.step()

    def step(self) -> None:
        """Look once more, as if woken."""
        if self.done:
            return
        with self.host.inside():
            try:
                self._wait = next(self._call)
            except StopIteration as stop:
                self.done = True
                self.result = stop.value
