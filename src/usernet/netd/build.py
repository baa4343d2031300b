"""The stacks of a configuration: tried out first, on devices that lead nowhere, and then made.

What only a stack can tell (a sysctl that does not exist, a gateway that no address reaches) is asked of one that is
never started and thrown away. So a file that is wrong anywhere changes nothing on the host. What only the host can tell
(there is no such interface, and no right to make one) comes when the devices are made; then all that was made before
is taken back.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from usernet import drivers
from usernet.netd.config import Config, DeviceConfig, RouteConfig, StackConfig
from usernet.netd.table import ConfigError
from usernet.netdevice.driver import Driver
from usernet.stack import Stack

Drivers = Callable[[StackConfig, DeviceConfig], Driver]


def check(config: Config) -> None:
    """Try all stacks out. Raises ConfigError."""
    stacks: list[Stack] = []
    try:
        for one in config.stacks.values():
            stack = Stack(one.name)
            stacks.append(stack)
            _furnish(config.source, stack, one, lambda _, device: _stand_in(device))
    finally:
        for stack in stacks:
            stack.close()


def make(config: Config) -> dict[str, Stack]:
    """The stacks, started, by name. Raises ConfigError, with nothing left; OSError is told as one, too."""
    check(config)
    cables: dict[tuple[str, str], Driver] = {}

    def driver(one: StackConfig, device: DeviceConfig) -> Driver:
        if device.driver != "veth":
            return _host_driver(device)
        ready = cables.pop((one.name, device.name), None)
        if ready is not None:
            return ready
        there, name = device.peer
        peer = config.stacks[there].devices[name]
        near, far = drivers.veth(**(device.impairments or peer.impairments))
        cables[device.peer] = far
        return near

    stacks: dict[str, Stack] = {}
    try:
        for one in config.stacks.values():
            stack = stacks[one.name] = Stack(one.name)
            stack.start()
            _furnish(config.source, stack, one, driver)
    except BaseException:
        for stack in stacks.values():
            stack.close()
        for end in cables.values():
            end.close()
        raise
    return stacks


def _host_driver(device: DeviceConfig) -> Driver:
    kind = drivers.Tap if device.driver == "tap" else drivers.Tun
    return kind(device.host, offload=device.offload, address=device.host_address, mtu=device.mtu or 0)


def _stand_in(device: DeviceConfig) -> Driver:
    """A device of the same kind that leads nowhere; a cable with the same impairments, so that they are checked."""
    near: Driver = drivers.veth(**device.impairments)[0]
    return near


def _furnish(source: str, stack: Stack, config: StackConfig, driver: Drivers) -> None:
    for name in config.sysctl:
        # Those of a device come when it is there.
        if not _of_device(name, config):
            _set_sysctl(source, stack, config, name)
    for device in config.devices.values():
        try:
            stack.add_device(
                driver(config, device), device.name, *device.addresses, mac=device.mac, mtu=device.mtu, up=device.up
            )
        except ModuleNotFoundError as missing:
            raise ConfigError(source, device.where, f"{missing}") from None
        except ValueError as problem:
            raise ConfigError(source, device.where, str(problem)) from None
        except OSError as problem:
            raise ConfigError(source, device.where, _why(device, problem)) from None
    for name in config.sysctl:
        if _of_device(name, config):
            _set_sysctl(source, stack, config, name)
    for route in config.routes:
        try:
            _add_route(stack, route)
        except (ValueError, OSError) as problem:
            text = problem.strerror or str(problem) if isinstance(problem, OSError) else str(problem)
            shown = f"{route.destination} via {route.via}" if route.via else route.destination
            raise ConfigError(source, route.where, f"{shown}: {text}") from None
    stack.hosts = {name: list(addresses) for name, addresses in config.hosts.items()}
    stack.nameservers = list(config.nameservers)
    if config.search:
        stack.names.search = list(config.search)


def _of_device(name: str, config: StackConfig) -> bool:
    """Whether a sysctl is one of those that each device has: net.ipv4.conf.eth0.forwarding."""
    return any(part in config.devices for part in name.split("."))


def _set_sysctl(source: str, stack: Stack, config: StackConfig, name: str) -> None:
    where = f"{config.where}.sysctl"
    try:
        stack.sysctl[name] = config.sysctl[name]
    except KeyError:
        raise ConfigError(source, where, f"there is no sysctl {name!r}") from None
    except ValueError as problem:
        raise ConfigError(source, where, str(problem)) from None


def _add_route(stack: Stack, route: RouteConfig) -> None:
    stack.add_route(
        route.destination, via=route.via, dev=route.dev, metric=route.metric, src=route.src, kind=route.kind,
        onlink=route.onlink,
    )  # fmt: skip


def _why(device: DeviceConfig, problem: OSError) -> str:
    what = device.driver.upper()
    if problem.errno == errno.EPERM:
        return (
            f"{what} {device.host!r}: the host lets this user neither make nor use it; as root: "
            f"ip tuntap add {device.host} mode {device.driver} user NAME"
        )
    if problem.errno == errno.EBUSY:
        return f"{what} {device.host!r}: another program is attached to it"
    if problem.errno == errno.ENOENT:
        return f"{what} {device.host!r}: there is no /dev/net/tun"
    return f"{what} {device.host!r}: {problem.strerror or problem}" if device.host else str(problem)
