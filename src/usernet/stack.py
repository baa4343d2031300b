"""A stack: one network namespace, assembled from the floors (Linux: `struct net`, and `ip netns add`).

Every method may be called from any thread; each takes the stack's lock, does its work and leaves. Times are seconds
where people type them, nanoseconds in `poll`.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from usernet.core.clock import Clock, ManualClock, MonotonicClock
from usernet.core.errors import check_type, error
from usernet.core.loop import Loop
from usernet.core.mib import Mib
from usernet.core.sysctl import SysctlTable
from usernet.core.trace import Trace
from usernet.drivers.loopback import Loopback
from usernet.ip.fib import format_address
from usernet.ip.metrics import check_number, route_metrics
from usernet.ip.text import parse_address, parse_interface, parse_nameserver, parse_prefix
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.ipv4 import Ipv4
from usernet.ip.v4.route import Ipv4Routes
from usernet.link.arp import Arp
from usernet.link.neighbour import NUD_PERMANENT
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import Driver
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.dropreason import DropReason
from usernet.sock.af_ops import RTN_BLACKHOLE, RTN_PROHIBIT, RTN_UNICAST, RTN_UNREACHABLE
from usernet.sock.sock import SockNet
from usernet.sockets.address import Names
from usernet.sockets.inet import InetFamily
from usernet.sockets.modules import provide_modules
from usernet.transport.tcp.congestion.base import available as congestion_controls
from usernet.transport.tcp.tcp import Tcp
from usernet.transport.udp import Udp
from usernet.transport.udplite import UdpLite
from usernet.wire import ethernet

if TYPE_CHECKING:
    from usernet.drivers.capture import Capture
    from usernet.sockets.poll import Epoll, Poll
    from usernet.sockets.user import UserSocket

ROUTE_KINDS = {
    "unicast": RTN_UNICAST,
    "blackhole": RTN_BLACKHOLE,
    "unreachable": RTN_UNREACHABLE,
    "prohibit": RTN_PROHIBIT,
}


@final
class Stack:
    """A network stack of its own.

    name: for people. clock: where its time comes from; by default the host's monotonic clock once it is started, and
    what `poll` is given while it is not. seed: makes all its random choices repeatable (not for real networks, where
    they must not be guessed).

    `with Stack() as stack:` starts it, so that calls may wait, and closes it at the end. Without, drive it by `poll`.
    """

    def __init__(self, name: str = "", *, clock: Clock | None = None, seed: int | None = None) -> None:
        check_type("name", name, str, "a str")
        check_type("clock", clock, (Clock, type(None)), "a Clock, or None")
        self._own_clock = clock is None
        self._polled = False
        source = random.SystemRandom() if seed is None else random.Random(seed)
        self.net = Net(name, clock if clock is not None else ManualClock(), source)
        self.names = self.net.get(Names)
        """What it knows about names, and how it asks for others (/etc/resolv.conf): search, ndots, timeout, …"""
        self._captures: list[Capture] = []
        net = self.net
        self.devices = net.get(DeviceNamespace)
        net.get(Ipv4)
        self._addresses = net.get(Devinet)
        self._routes = net.get(Ipv4Routes)
        self._neighbours = net.get(Arp).table
        for state in (SockNet, Tcp, Udp, UdpLite, InetFamily):
            net.get(state)
        provide_modules(net)
        self.add_device(Loopback(), "lo", "127.0.0.1/8")

    def __repr__(self) -> str:
        state = "closed" if self.closed else "started" if self.started else "not started"
        return f"<usernet.Stack {self.name!r} {state}, devices: {', '.join(self.devices) or 'none'}>"

    # -- what it is made of

    @property
    def name(self) -> str:
        return self.net.name

    @property
    def loop(self) -> Loop:
        return self.net.loop

    @property
    def sysctl(self) -> SysctlTable:
        """Settings by Linux's names: `stack.sysctl["net.ipv4.tcp_sack"] = 0`."""
        return self.net.sysctl

    @property
    def mib(self) -> Mib:
        """Counters: `stack.mib["Tcp"]["RetransSegs"]`."""
        return self.net.mib

    @property
    def hosts(self) -> dict[str, list[str]]:
        """Names known without asking anyone: name → addresses (/etc/hosts)."""
        return self.names.hosts

    @hosts.setter
    def hosts(self, table: dict[str, list[str]]) -> None:
        check_type("hosts", table, dict, "a dict of names to lists of addresses")
        self.names.hosts = table

    @property
    def nameservers(self) -> list[str]:
        """Whom to ask for other names: "10.0.0.53" or "10.0.0.53:5353". Setting it raises ValueError for what is none,
        TypeError for what is no list."""
        return self.names.nameservers

    @nameservers.setter
    def nameservers(self, servers: list[str]) -> None:
        check_type("nameservers", servers, (list, tuple), "a list of addresses")
        for server in servers:
            parse_nameserver(server)
        self.names.nameservers = servers

    @property
    def trace(self) -> Trace:
        """Tracepoints: `stack.trace.kfree_skb.attach(probe)`."""
        return self.net.trace

    @property
    def drops(self) -> dict[DropReason, int]:
        """How many packets were dropped, by reason."""
        return dict(self.net.drops.counts)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        loop = self.net.loop
        loop.enter()
        try:
            yield
        finally:
            loop.leave()

    # -- running it

    @property
    def started(self) -> bool:
        return self.net.loop.trampoline is not None

    @property
    def closed(self) -> bool:
        return bool(self.net.loop.unusable)

    def start(self) -> Self:
        """Have the process's runner drive it, so that its calls may wait. Does nothing where it runs already."""
        loop = self.net.loop
        if loop.trampoline is not None:
            return self
        from usernet.runner import process_runner

        runner = process_runner()
        with self._entered():
            if self._own_clock:
                self._set_clock(MonotonicClock())
            loop.trampoline = runner
            for dev in self.devices.values():
                dev.start_watching()
        runner.attach(loop)
        return self

    def _set_clock(self, clock: Clock) -> None:
        """Take another clock; what is planned keeps its distance from now."""
        loop = self.net.loop
        now = clock.now()
        loop.timers.shift(now - loop.now)
        loop.clock = clock
        loop.now = now

    def poll(self, now: int) -> int | None:
        """Drive it by hand: do what is due at `now` (ns, never less than before).

        Returns the next deadline (ns), or None where nothing is planned. Raises ValueError when `now` lies before an
        earlier one, RuntimeError on a started stack, which drives itself.
        """
        check_type("now", now, int, "nanoseconds, an int")
        loop = self.net.loop
        if loop.trampoline is not None:
            raise RuntimeError("this stack is started, and drives itself: poll() is for one that is not")
        if self._own_clock and not self._polled:
            self._polled = True
            if now < 0:
                raise ValueError(f"now: expected nanoseconds, not {now}")
            with self._entered():
                self._set_clock(ManualClock(now))
        clock = loop.clock
        if isinstance(clock, ManualClock):
            clock.set(now)
        for dev in self.devices.values():
            if dev.driver.fileno() >= 0:
                loop.softirq.schedule(dev.napi)
        return loop.poll(now)

    def close(self) -> None:
        """End it: sockets, devices, timers, captures. Calls that wait raise. Does nothing the second time."""
        loop = self.net.loop
        if loop.unusable:
            return
        for capture in tuple(self._captures):
            capture.stop()
        with self._entered():
            waiting = [sk.wait for sk in self.net.get(SockNet).sockets]
            self.devices.close()
            self.net.close()
            loop.close(f"stack {self.name!r} is closed")
            for queue in waiting:
                queue.wake_all(-1)
        trampoline = loop.trampoline
        loop.trampoline = None
        if trampoline is not None:
            trampoline.detach(loop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- devices

    def add_device(
        self,
        driver: Driver,
        name: str,
        *addresses: str,
        mac: str | None = None,
        mtu: int | None = None,
        up: bool = True,
    ) -> NetDevice:
        """A new device on `driver`, with `addresses` ("10.0.0.1/24"), usable at once.

        mac: instead of the driver's own. mtu: in bytes. up: whether to bring it up.
        Raises ValueError for a name, address or number that is none, or a driver that is a device's already, OSError
        where the driver can't be opened, or for an address of a family that the stack doesn't have (EAFNOSUPPORT);
        then there is no device.
        """
        check_type("driver", driver, Driver, "a driver such as drivers.Tap(), or one end of drivers.veth()")
        parsed = [parse_interface(text) for text in addresses]
        with self._entered():
            dev = self.devices.register(driver, name)
            try:
                if mac is not None:
                    dev.set_mac(ethernet.parse_mac(mac))
                if mtu is not None:
                    dev.set_mtu(mtu)
                if up:
                    self.devices.set_up(dev)
                for packed, length in parsed:
                    self._addresses.add(dev, packed, length)
            except BaseException:
                self.devices.remove(dev)
                raise
        return dev

    def _device(self, dev: NetDevice | str) -> NetDevice:
        """Raises KeyError for a name that no device has, ValueError for a device that is not this stack's."""
        if isinstance(dev, str):
            return self.devices[dev]
        check_type("dev", dev, NetDevice, "a device, or its name")
        if self.devices.by_index(dev.index) is not dev:
            raise ValueError(f"dev: {dev!r} is not one of this stack's")
        return dev

    def remove_device(self, dev: NetDevice | str) -> None:
        """Take a device away, with its addresses, routes and neighbours."""
        with self._entered():
            self.devices.remove(self._device(dev))

    def set_qdisc(self, dev: NetDevice | str, kind: str, *arguments: str) -> None:
        """Give a device another queue, as `tc qdisc replace dev DEV root` does: set_qdisc("eth0", "fq", "maxrate",
        "10mbit"). What waits in the old one is dropped. Raises OSError: ENOENT for an unknown kind, EINVAL."""
        from usernet.netdevice.qdisc import tc

        with self._entered():
            device = self._device(dev)
            device.set_qdisc(tc.make(kind, arguments, device.driver.queue_length))

    def set_up(self, dev: NetDevice | str) -> None:
        """Bring a device up. Raises OSError where its driver can't be opened."""
        with self._entered():
            self.devices.set_up(self._device(dev))

    def set_down(self, dev: NetDevice | str) -> None:
        """Take a device down."""
        with self._entered():
            self.devices.set_down(self._device(dev))

    def rename_device(self, dev: NetDevice | str, name: str) -> None:
        """Raises ValueError for a name that is taken, or none."""
        with self._entered():
            self.devices.rename(self._device(dev), name)

    def set_mtu(self, dev: NetDevice | str, mtu: int) -> None:
        """mtu: in bytes. Raises ValueError out of the driver's bounds."""
        with self._entered():
            self.devices.set_mtu(self._device(dev), mtu)

    def set_mac(self, dev: NetDevice | str, mac: str) -> None:
        """Raises ValueError for what is no unicast MAC address."""
        with self._entered():
            self.devices.set_mac(self._device(dev), ethernet.parse_mac(mac))

    # -- addresses, routes, neighbours

    def add_address(self, dev: NetDevice | str, address: str) -> None:
        """address: "10.0.0.1/24". Raises ValueError for what is none, FileExistsError where the device has it."""
        packed, length = parse_interface(address)
        with self._entered():
            self._addresses.add(self._device(dev), packed, length)

    def remove_address(self, dev: NetDevice | str, address: str) -> None:
        """Raises OSError EADDRNOTAVAIL where the device doesn't have it."""
        packed, length = parse_interface(address)
        with self._entered():
            self._addresses.remove(self._device(dev), packed, length)

    def addresses(self, dev: NetDevice | str) -> list[str]:
        """A device's addresses, each with its prefix length."""
        with self._entered():
            return [
                f"{format_address(entry.addr)}/{entry.prefixlen}"
                for entry in self._addresses.of(self._device(dev))
            ]

    def add_route(
        self,
        destination: str,
        *,
        via: str | None = None,
        dev: NetDevice | str | None = None,
        metric: int = 0,
        src: str | None = None,
        kind: str = "unicast",
        onlink: bool = False,
        congctl: str = "",
        mtu_lock: bool = False,
        locked: Iterable[str] = (),
        replace: bool = False,
        **metrics: int,
    ) -> None:
        """A route to `destination` ("default", "10.0.0.0/8"), as `ip route add` makes it.

        via: the gateway. dev: the device. metric: lower is preferred. src: the source address to use. kind: unicast,
        blackhole, unreachable or prohibit. onlink: don't check that the gateway is on the link. congctl: the
        congestion control. metrics: mtu, initcwnd, advmss, … (ip-route(8); times in ms). locked: those of them that
        hold whatever is learned.
        Raises ValueError for what is malformed, OSError ENETUNREACH for a gateway that can't be reached, EEXIST.
        """
        prefix, length = parse_prefix(destination)
        gateway = parse_address("via", via) if via is not None else None
        source = parse_address("src", src) if src is not None else None
        if kind not in ROUTE_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(ROUTE_KINDS)}, not {kind!r}")
        locked = frozenset(locked)
        check_number("metric", metric)
        numbers = route_metrics(metrics, locked)
        if congctl and congctl not in congestion_controls():
            raise ValueError(f"congctl: expected one of {', '.join(congestion_controls())}, not {congctl!r}")
        with self._entered():
            self._routes.add(
                prefix,
                length,
                gateway=gateway,
                dev=self._device(dev) if dev is not None else None,
                kind=ROUTE_KINDS[kind],
                metric=metric,
                prefsrc=source,
                metrics=numbers,
                congestion_control=congctl,
                onlink=onlink,
                mtu_lock=mtu_lock or "mtu" in locked,
                replace=replace,
            )

    def remove_route(
        self,
        destination: str,
        *,
        via: str | None = None,
        dev: NetDevice | str | None = None,
        metric: int | None = None,
    ) -> None:
        """Take away the first route that matches. Raises OSError ESRCH where there is none."""
        prefix, length = parse_prefix(destination)
        gateway = parse_address("via", via) if via is not None else None
        with self._entered():
            self._routes.remove(
                prefix,
                length,
                gateway=gateway,
                dev=self._device(dev) if dev is not None else None,
                metric=metric,
            )

    def add_neighbour(self, dev: NetDevice | str, address: str, mac: str) -> None:
        """A permanent entry of the neighbour table (`ip neigh add … nud permanent`)."""
        packed = parse_address("address", address)
        link = ethernet.parse_mac(mac)
        with self._entered():
            self._neighbours.add(self._device(dev), packed, link, NUD_PERMANENT)

    def remove_neighbour(self, dev: NetDevice | str, address: str) -> None:
        """Take an entry out of the neighbour table. Raises OSError ENOENT where there is none."""
        packed = parse_address("address", address)
        with self._entered():
            if not self._neighbours.remove(self._device(dev), packed):
                raise error(errno.ENOENT, f"no neighbour {address} on {dev if isinstance(dev, str) else dev.name}")

    # -- sockets

    def socket(self, family: int = 2, type: int = 1, proto: int = 0) -> UserSocket:
        """A socket of this stack, with the methods of the standard `socket.socket`.

        Raises OSError: EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT.
        """
        from usernet.sockets.user import UserSocket

        return UserSocket(self.net, family, type, proto)

    def select(
        self, rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """`select.select` for sockets of this stack, without descriptors. timeout: seconds, None for no end."""
        from usernet.sockets.poll import select

        return select(self.net, rlist, wlist, xlist, timeout)

    def poller(self) -> Poll:
        """`select.poll()` for sockets of this stack, without descriptors. (`poll` drives the stack.)"""
        from usernet.sockets.poll import Poll

        return Poll(self.net)

    def epoll(self) -> Epoll:
        """`select.epoll()` for sockets of this stack, without descriptors."""
        from usernet.sockets.poll import Epoll

        return Epoll(self.net)

    # -- looking

    def capture(
        self,
        path: str | os.PathLike[str],
        devices: NetDevice | str | Iterable[NetDevice | str] | None = None,
        *,
        snaplen: int = 0,
        drops: bool = True,
    ) -> Capture:
        """Write what `devices` (one, several, all where None) receive and send to a pcapng file, for Wireshark, until
        `stop()` or the end of the `with` block.

        snaplen: bytes of each packet to keep, 0 for all. drops: also write dropped packets, with the reason as
        comment. Raises OSError where the file can't be written.
        """
        from usernet.drivers.capture import Capture

        several = [devices] if isinstance(devices, (str, NetDevice)) else devices
        chosen = None if several is None else [self._device(dev) for dev in several]
        capture = Capture(self.net, path, chosen, snaplen=snaplen, drops=drops)
        self._captures.append(capture)
        capture.on_stop(lambda: self._captures.remove(capture))
        return capture.start()

    def call_later(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the stack's lock is next released: for probes, which must not call the stack."""
        if not callable(callback):
            raise TypeError(f"callback: expected a function, not {callback!r}")
        self.net.loop.after(callback)

    def sockets(self) -> list[Any]:
        """Every socket that is open or still has work to do (sock/sock.py: Sock)."""
        return list(self.net.get(SockNet).sockets)
