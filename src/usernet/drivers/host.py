"""The host's side of a device: the kernel's interface, its address, MTU, routes, and the namespace it is in.

Used by drivers that were asked to set it up. Addresses, routes and link settings go through pyroute2, which is imported
only here and only then (the extra `usernet[netlink]`); entering a namespace takes nothing but setns(2).
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from usernet.core.errors import error

CLONE_NEWNET: Final = 0x40000000
NETNS_DIR: Final = "/run/netns"

# linux/mount.h, and the numbers of its system calls, which all architectures share but Alpha
SYS_FSOPEN: Final = 430
SYS_FSCONFIG: Final = 431
SYS_FSMOUNT: Final = 432
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_CMD_CREATE: Final = 6


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise error(ctypes.get_errno(), f"can't enter a network namespace: {os.strerror(ctypes.get_errno())}")


@contextmanager
def entered(netns: str | None) -> Iterator[None]:
    """Have the calling thread in a network namespace of the host for the block; None: where it is.

    netns: a name that `ip netns` knows, or the path of a namespace file (`/proc/PID/ns/net`).
    Raises OSError ENOENT where there is no such namespace, EPERM without the privilege.
    """
    if netns is None:
        yield
        return
    path = netns if "/" in netns else f"{NETNS_DIR}/{netns}"
    try:
        inside = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise error(errno.ENOENT, f"netns: there is no network namespace {netns!r} ({path})") from None
    try:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(inside)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)
    finally:
        os.close(inside)


def sysfs() -> int:
    """A descriptor of the sysfs of the network namespace that the calling thread is in, wherever, and whether at all,
    it is mounted. The caller closes it. Raises OSError: ENOSYS before Linux 5.2, EPERM without CAP_SYS_ADMIN."""
    libc = ctypes.CDLL(None, use_errno=True)
    context = _system_call(libc, SYS_FSOPEN, b"sysfs", FSOPEN_CLOEXEC)
    try:
        _system_call(libc, SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _system_call(libc, SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _system_call(libc: ctypes.CDLL, number: int, *arguments: bytes | int | None) -> int:
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        raise error(ctypes.get_errno(), f"sysfs can't be looked at: {os.strerror(ctypes.get_errno())}")
    return result


def set_attribute(directory: int, attribute: str, value: int) -> None:
    """Write to an attribute in a directory of a `sysfs`. Raises OSError where there is none, or it may not be."""
    fd = os.open(attribute, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def kernel_version() -> tuple[int, int]:
    """The version of the running kernel: (6, 12). (0, 0) where its name doesn't begin with one."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def configure(
    name: str,
    address: str | Sequence[str] | None = None,
    up: bool = True,
    mtu: int = 0,
    mac: bytes = b"",
    routes: Sequence[str] = (),
    netns: str | None = None,
) -> None:
    """Set up the host's interface `name`.

    address: `"10.77.0.1/24"`, or several, of either family; one that is there already stays. up: bring it up.
    mtu: bytes, 0 to leave it. mac: 6 bytes, b"" to leave it. routes: destinations (`"10.78.0.0/16"`, `"default"`)
    that the host is to send through this interface; with `via`, `"10.78.0.0/16 via 10.77.0.2"`. netns: as `entered`.

    Raises ModuleNotFoundError without pyroute2; ValueError for an address or route that is none, before anything was
    changed; OSError for what the kernel refuses.
    """
    addresses = [parse_interface(text) for text in ([address] if isinstance(address, str) else address or ())]
    parsed_routes = [parse_route(text) for text in routes]
    try:
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError
    except ImportError:
        raise ModuleNotFoundError(
            "setting up the host's side of a device needs pyroute2: pip install 'usernet[netlink]'", name="pyroute2"
        ) from None
    with entered(netns):
        link = IPRoute()
    try:
        _apply(link, name, addresses, up, mtu, mac, parsed_routes)
    except NetlinkError as problem:
        code: int = problem.code
        raise error(code, f"host's side of {name}: {os.strerror(code)}") from None
    finally:
        link.close()


def _apply(
    link: Any,
    name: str,
    addresses: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface],
    up: bool,
    mtu: int,
    mac: bytes,
    routes: list[tuple[str, str | None]],
) -> None:
    found = link.link_lookup(ifname=name)
    if not found:
        raise error(errno.ENODEV, f"the host has no interface {name!r}")
    index = found[0]
    if mac:
        link.link("set", index=index, address=mac.hex(":"))
    if mtu:
        link.link("set", index=index, mtu=mtu)
    for interface in addresses:
        # `replace`, so that a persistent device that is set up again is not an error.
        link.addr("replace", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
    if up:
        link.link("set", index=index, state="up")
    for destination, gateway in routes:
        settings = {"dst": destination, "oif": index}
        if gateway is not None:
            settings["gateway"] = gateway
        link.route("replace", **settings)


def parse_interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Read `10.77.0.1/24`. Raises ValueError naming what was expected."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        interface = None
    if interface is None or "/" not in text:
        raise ValueError(f"address: expected one with its prefix length, such as 10.77.0.1/24, not {text!r}")
    return interface


def parse_route(text: str) -> tuple[str, str | None]:
    """Read `10.78.0.0/16`, `default`, or either with ` via 10.77.0.2`. Raises ValueError naming what was expected."""
    words = text.split()
    try:
        if len(words) == 3 and words[1] == "via":
            gateway: str | None = str(ipaddress.ip_address(words[2]))
        elif len(words) == 1:
            gateway = None
        else:
            raise ValueError
        destination = "default" if words[0] == "default" else str(ipaddress.ip_network(words[0]))
    except ValueError:
        raise ValueError(
            f"route: expected a network, such as 10.78.0.0/16 or default, perhaps with `via ADDRESS`, not {text!r}"
        ) from None
    return destination, gateway
