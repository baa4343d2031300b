"""Test beds: a kernel that asks, and the same addresses answered either by a stack on a TAP or by another kernel.

`stack_bed()` is a namespace `client` (10.77.0.1) whose device `net0` is a TAP or TUN with a stack (10.77.0.2) on it;
`kernel_bed()` is the same namespace with the same device name and addresses, but `net0` is one end of a veth pair and
the other end is in a namespace of its own. A program run in `client` can't tell which it is by its address, so what it
prints about the two can be compared as it is, but for times. With `routed` the host also routes to another one behind
it (10.78.0.2, over a link with an MTU of 1000), which is a stack behind a stack, or a kernel behind a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import usernet
from tests.support import netns
from usernet import drivers

KERNEL: Final = "10.77.0.1"
HOST: Final = "10.77.0.2"
DEVICE: Final = "net0"
MAC: Final = "02:00:00:00:00:02"
ROUTER: Final = "10.78.0.1"
FAR: Final = "10.78.0.2"
FAR_MTU: Final = 1000


class Bed:
    """A client's namespace and what it talks to.

    Args:
        client: the namespace whose programs ask.
        stack: what answers, where that is a stack.
        host: the namespace that answers, where it is a kernel.
    """

    def __init__(self, client: netns.Netns, stack: usernet.Stack | None, host: netns.Netns | None) -> None:
        self.client = client
        self._stack = stack
        self._host = host

    @property
    def stack(self) -> usernet.Stack:
        assert self._stack is not None
        return self._stack

    @property
    def host(self) -> netns.Netns:
        assert self._host is not None
        return self._host

    def sysctl(self, **settings: object) -> None:
        """Set `net.ipv4.<name>` of the client's kernel."""
        for name, value in settings.items():
            self.client.run("sysctl", "-qw", f"net.ipv4.{name}={value}")


@contextmanager
def stack_bed(
    *,
    tun: bool = False,
    offload: bool = True,
    mtu: int = 0,
    impair: dict[str, Any] | None = None,
    routed: bool = False,
) -> Iterator[Bed]:
    """A started stack on a TAP (or TUN) whose other end is in a namespace. impair: arguments of drivers.Impair."""
    kind = drivers.Tun if tun else drivers.Tap
    with netns.Netns("interop") as client, ExitStack() as more:
        device = kind(DEVICE, address=f"{KERNEL}/24", offload=offload, mtu=mtu, netns=client.name)
        driver = drivers.Impair(device, **impair) if impair else device
        with usernet.Stack("interop") as stack:
            stack.add_device(driver, "eth0", f"{HOST}/24", mac=None if tun else MAC)
            client.run("ip", "route", "change", "10.77.0.0/24", "dev", DEVICE, "congctl", "cubic")
            if routed:
                near, away = drivers.veth()
                far = more.enter_context(usernet.Stack("far"))
                stack.sysctl["net.ipv4.ip_forward"] = 1
                stack.add_device(near, "eth1", f"{ROUTER}/24", mtu=FAR_MTU)
                far.add_device(away, "eth0", f"{FAR}/24", mtu=FAR_MTU)
                far.add_route("default", via=ROUTER)
                client.run("ip", "route", "add", "10.78.0.0/24", "via", HOST)
            yield Bed(client, stack, None)


@contextmanager
def kernel_bed(*, routed: bool = False) -> Iterator[Bed]:
    """Two kernels on a veth pair, with the addresses of `stack_bed`."""
    with netns.Netns("client") as client, netns.Netns("host") as host, ExitStack() as more:
        client.run("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        for where, device, address in ((client, DEVICE, KERNEL), (host, "eth0", HOST)):
            where.run("ip", "address", "add", f"{address}/24", "dev", device)
            if device == "eth0":
                where.run("ip", "link", "set", device, "address", MAC)
            where.run("ip", "link", "set", device, "up")
        if routed:
            far = more.enter_context(netns.Netns("far"))
            host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", far.name)
            for where, device, address in ((host, "eth1", ROUTER), (far, "eth0", FAR)):
                where.run("ip", "address", "add", f"{address}/24", "dev", device)
                where.run("ip", "link", "set", device, "mtu", str(FAR_MTU), "up")
            far.run("ip", "route", "add", "default", "via", ROUTER)
            client.run("ip", "route", "add", "10.78.0.0/24", "via", HOST)
        yield Bed(client, None, host)
