"""A script's shell lines, carried out on a stack: sysctls, routes, qdiscs, offloads, counters.

The `Shell` of `StackTarget`. What the stack doesn't have is the error that Linux has for what it doesn't have.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.fib import FibRoute
from usernet.ip.metrics import route_metrics
from usernet.ip.v4.route import Ipv4Routes
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import NETIF_F_GRO, NETIF_F_GSO, NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO, NETIF_F_TSO6
from usernet.netdevice.qdisc import tc
from usernet.netdevice.qdisc.pfifo import PfifoFast
from usernet.packetdrill.shell import ADD, APPEND, CHANGE, DELETE, REPLACE, QdiscChange, RouteChange, Shell
from usernet.packetdrill.stack_device import TUN_QUEUE_LENGTH
from usernet.stack import Stack
from usernet.transport.tcp.metrics_show import metric_entry, metric_line
from usernet.transport.tcp.tcp import Tcp

_FEATURES: Final = {
    "tso": NETIF_F_TSO | NETIF_F_TSO6, "gso": NETIF_F_GSO, "gro": NETIF_F_GRO, "sg": NETIF_F_SG, "tx": NETIF_F_HW_CSUM,
}  # fmt: skip


@final
class StackShell(Shell):
    """Shell lines on one stack.

    local: the target's own address, packed; as a gateway it means "on the link", as packetdrill's set-up has it.
    files: what the script's `open` finds. sleep: lets virtual time pass.
    """

    def __init__(
        self, stack: Stack, local: bytes, files: dict[str, bytes], sleep: Callable[[int], None]
    ) -> None:
        self._stack = stack
        self._local = local
        self._files = files
        self._sleep = sleep

    # ------------------------------------------------------------ settings

    def sysctl_get(self, name: str) -> str:
        try:
            value = self._stack.sysctl[name]
        except KeyError:
            raise error(errno.ENOENT) from None
        return "\t".join(map(str, value)) if isinstance(value, tuple) else str(value)

    def sysctl_set(self, name: str, value: str) -> None:
        try:
            self._stack.sysctl[name] = value
        except KeyError:
            raise error(errno.ENOENT) from None
        except ValueError as bad:
            raise error(errno.EINVAL, str(bad)) from None

    def _parameter(self, module: str, name: str) -> str:
        """The sysctl that stands for a module's parameter, which in a stack is each namespace's own."""
        path = f"module.{module}.{name}"
        if path not in self._stack.sysctl:
            raise error(errno.ENOENT)
        return path

    def module_parameter_get(self, module: str, name: str) -> str:
        return self.sysctl_get(self._parameter(module, name))

    def module_parameter_set(self, module: str, name: str, value: str) -> None:
        self.sysctl_set(self._parameter(module, name), value)

    # ------------------------------------------------------------ routes

    def route(self, change: RouteChange) -> None:
        if change.version != 4:
            raise error(errno.EAFNOSUPPORT)
        routes = self._stack.net.get(Ipv4Routes)
        try:
            network = ipaddress.IPv4Network("0.0.0.0/0" if change.destination == "default" else change.destination)
        except ValueError:
            raise error(errno.EINVAL) from None
        prefix, length = network.network_address.packed, network.prefixlen
        if change.action == DELETE:
            routes.remove(prefix, length)
            return
        present = any(route.prefix == prefix and route.length == length for route in routes.routes())
        if change.action == ADD and present:
            raise error(errno.EEXIST)
        if change.action == CHANGE and not present:
            raise error(errno.ENOENT)
        gateway = ipaddress.IPv4Address(change.via).packed if change.via else None
        added: FibRoute = routes.add(
            prefix,
            length,
            gateway=None if gateway == self._local else gateway,
            dev=self._device(change.device) if change.device else None,
            prefsrc=ipaddress.IPv4Address(change.source).packed if change.source else None,
            metrics=self._metrics(change),
            congestion_control=change.congctl,
            congestion_locked="congctl" in change.locked,
            onlink=True,
            mtu_lock="mtu" in change.locked,
            replace=change.action in (CHANGE, REPLACE),
            append=change.action == APPEND,
        )
        added.exceptions = None

    @staticmethod
    def _metrics(change: RouteChange) -> dict[int, int]:
        try:
            return route_metrics(change.metrics, change.locked - {"congctl"})
        except ValueError as unknown:
            raise error(errno.EOPNOTSUPP, str(unknown)) from None

    def metrics_flush(self, address: str) -> None:
        metrics = self._stack.net.get(Tcp).metrics
        if not address:
            metrics.flush()
        elif not metrics.delete(self._address(address)):
            raise error(errno.ESRCH)

    def metrics_show(self, address: str) -> str:
        net = self._stack.net
        wanted = self._address(address) if address else b""
        found = [entry for entry in net.get(Tcp).metrics.entries() if wanted in (b"", entry.daddr)]
        if address and not found:
            raise error(errno.ESRCH)
        lines = []
        for entry in found:
            dst, source = (str(ipaddress.ip_address(packed)) for packed in (entry.daddr, entry.saddr))
            lines.append(metric_line(metric_entry(entry, dst, source, net.loop.now)) + "\n")
        return "".join(lines)

    @staticmethod
    def _address(text: str) -> bytes:
        try:
            return ipaddress.ip_address(text).packed
        except ValueError:
            raise error(errno.EINVAL) from None

    # ------------------------------------------------------------ devices

    def _device(self, name: str) -> NetDevice:
        if name not in self._stack.devices:
            raise error(errno.ENODEV)
        return self._stack.devices[name]

    def qdisc(self, change: QdiscChange) -> None:
        dev = self._device(change.device)
        if change.parent != "root":
            raise error(errno.EOPNOTSUPP)
        if change.action == DELETE:
            dev.set_qdisc(PfifoFast(TUN_QUEUE_LENGTH))
        else:
            dev.set_qdisc(tc.make(change.kind, change.arguments, TUN_QUEUE_LENGTH))

    def features(self, device: str, features: dict[str, bool]) -> None:
        dev = self._device(device)
        for name, on in features.items():
            if name not in _FEATURES:
                raise error(errno.EOPNOTSUPP, f"the feature {name} is not known")
            dev.set_features(_FEATURES[name], on)

    def link(self, device: str, settings: dict[str, str]) -> None:
        dev = self._device(device)
        for name, value in settings.items():
            if name == "mtu":
                self._stack.set_mtu(dev, int(value))
            elif name == "state":
                (self._stack.set_up if value == "up" else self._stack.set_down)(dev)
            elif name == "txqueuelen":
                dev.set_qdisc(PfifoFast(int(value)))
            else:
                raise error(errno.EOPNOTSUPP, f"{name} of a device can't be set")

    # ------------------------------------------------------------ the rest

    def counters(self) -> dict[str, int]:
        mib = self._stack.mib
        return {group + name: mib[group][name] for group in mib for name in mib[group]}

    def file_write(self, path: str, data: bytes | None) -> None:
        if data is None:
            self._files.pop(path, None)
        else:
            self._files[path] = data

    def sleep(self, duration: int) -> None:
        self._sleep(duration)
