"""`usernet.toml`: the stacks of a service, as a file says what they are.

The file is read into plain objects, and everything that can be known without doing anything is checked on the way:
words that mean nothing, kinds, bounds, addresses that overlap, devices that a route names and nobody has. What is wrong
raises `ConfigError`, which says where ("stack.main.devices.eth0.mtu") and what was expected there. `build.py` then
tries the stacks out before it makes them.

    [stack.main]
    nameservers = ["10.77.0.1"]
    hosts = { "db.test" = ["10.77.0.9"] }

    [stack.main.devices.eth0]
    driver = "tap"
    host = "tap0"
    addresses = ["10.77.0.2/24"]

    [[stack.main.routes]]
    destination = "default"
    via = "10.77.0.1"

    [stack.main.sysctl]
    "net.ipv4.tcp_congestion_control" = "bbr"
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from typing import Any, Final, final

from usernet.netd.table import ConfigError, Table

DEFAULT_STACK: Final = "default"
"""The name of a stack that nobody named."""

STACK_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DRIVERS: Final = ("tap", "tun", "veth")
ROUTE_KINDS: Final = ("unicast", "blackhole", "unreachable", "prohibit")
IMPAIRMENTS: Final = ("delay", "jitter", "rate", "loss", "duplicate", "corrupt", "reorder", "limit", "buffer", "seed")
"""What a veth may be given, under the names of drivers/impair.py."""

_FRACTIONS: Final = frozenset({"loss", "duplicate", "corrupt", "reorder"})
_WHOLE: Final = frozenset({"limit", "buffer", "seed"})

MAX_SOCKETS: Final = 16384
"""Sockets that one client may have, where nothing else is said."""

MAX_MEMORY: Final = 256 << 20
"""Bytes that the buffers of one client's sockets may take, where nothing else is said."""

MAX_CLIENTS: Final = 4096
"""Clients that a stack serves at once, where nothing else is said."""


@final
class DeviceConfig:
    """[stack.NAME.devices.DEVICE]."""

    def __init__(self, where: str, name: str, driver: str) -> None:
        self.where = where
        self.name = name
        self.driver = driver
        self.host: str = ""
        self.host_address: str | None = None
        self.offload: bool = True
        self.addresses: list[str] = []
        self.mac: str | None = None
        self.mtu: int | None = None
        self.up: bool = True
        self.peer: tuple[str, str] = ("", "")
        """Of a veth: the other end's stack and device."""
        self.impairments: dict[str, Any] = {}


@final
class RouteConfig:
    """[[stack.NAME.routes]]."""

    def __init__(self, where: str, destination: str) -> None:
        self.where = where
        self.destination = destination
        self.via: str | None = None
        self.dev: str | None = None
        self.src: str | None = None
        self.metric: int = 0
        self.kind: str = "unicast"
        self.onlink: bool = False


@final
class StackConfig:
    """[stack.NAME]."""

    def __init__(self, where: str, name: str) -> None:
        self.where = where
        self.name = name
        self.devices: dict[str, DeviceConfig] = {}
        self.routes: list[RouteConfig] = []
        self.hosts: dict[str, list[str]] = {}
        self.nameservers: list[str] = []
        self.search: list[str] = []
        self.sysctl: dict[str, Any] = {}
        self.socket: str = ""
        """The path of its Unix socket; "" for the usual place."""
        self.mode: int = 0o600
        self.group: str = ""
        self.open_control: bool = False
        """Whether everyone who may connect may also change the stack, and not its owner and root alone."""
        self.sockets: int = MAX_SOCKETS
        self.memory: int = MAX_MEMORY
        self.clients: int = MAX_CLIENTS
        self.grace: float = 5.0
        """Seconds that connections have to come to their end when the service ends."""
        self.capture: str = ""


@final
class Config:
    """What a service is to run. source: the file's name, for messages."""

    def __init__(self, source: str, stacks: dict[str, StackConfig]) -> None:
        self.source = source
        self.stacks = stacks


def load(path: str | os.PathLike[str]) -> Config:
    """Read a file. Raises ConfigError where it is wrong anywhere, OSError where it can't be read."""
    source = os.fspath(path)
    with open(path, "rb") as file:
        data = file.read()
    try:
        parsed = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(source, "", str(problem)) from None
    return read(parsed, source)


def read(parsed: dict[str, Any], source: str = "usernet.toml") -> Config:
    """What a parsed file says. Raises ConfigError."""
    top = Table(source, "", parsed)
    named = top.table("stack")
    top.end()
    stacks: dict[str, StackConfig] = {}
    for name in named.names():
        where = f"stack.{name}"
        if not STACK_NAME.fullmatch(name):
            raise ConfigError(source, where, f"expected a name of letters, digits, '-', '_' and '.', not {name!r}")
        stacks[name] = _stack(named.table(name), name)
    if not stacks:
        raise ConfigError(source, "stack", "expected at least one stack: [stack.NAME]")
    paths: dict[str, str] = {}
    for config in stacks.values():
        if config.socket in paths and config.socket:
            raise ConfigError(source, f"{config.where}.socket", f"{config.socket} is that of {paths[config.socket]}")
        paths[config.socket] = config.where
    _check_hosts_devices(source, stacks)
    _check_peers(source, stacks)
    return Config(source, stacks)


def _stack(table: Table, name: str) -> StackConfig:
    config = StackConfig(table.where, name)
    devices = table.table("devices")
    for device in devices.names():
        config.devices[device] = _device(devices.table(device), device, name)
    for entry in table.tables("routes"):
        config.routes.append(_route(entry, config))
    hosts = table.table("hosts")
    for host in hosts.names():
        config.hosts[host] = [_address(hosts, host, text) for text in hosts.strings(host)]
    config.nameservers = table.strings("nameservers")
    for server in config.nameservers:
        address, colon, port = server.partition(":")
        if colon and not (port.isdecimal() and 0 < int(port) < 65536):
            raise table.wrong("nameservers", f"expected something like 10.0.0.53 or 10.0.0.53:5353, not {server!r}")
        _address(table, "nameservers", address)
    config.search = table.strings("search")
    sysctl = table.table("sysctl")
    config.sysctl = _flat(sysctl)
    config.socket = table.string("socket", "")
    access = table.table("access")
    config.mode = access.integer("mode", 0o600, 0, 0o777)
    config.group = access.string("group", "")
    config.open_control = access.choice("control", ("owner", "all"), "owner") == "all"
    access.end()
    quota = table.table("quota")
    config.sockets = quota.integer("sockets", MAX_SOCKETS, 1, 1 << 20)
    config.memory = quota.size("memory", MAX_MEMORY, 1 << 16, 1 << 50)
    config.clients = quota.integer("clients", MAX_CLIENTS, 1, 1 << 20)
    quota.end()
    config.grace = table.number("grace", 5.0, 0.0, 3600.0)
    config.capture = table.string("capture", "")
    table.end()
    _check_addresses(table.source, config)
    return config


def _flat(table: Table) -> dict[str, Any]:
    """Sysctls, of which a dotted name without quotes is tables within tables to TOML."""
    flat: dict[str, Any] = {}

    def walk(values: dict[str, Any], before: str) -> None:
        for key, value in values.items():
            name = f"{before}.{key}" if before else key
            if isinstance(value, dict):
                walk(value, name)
            elif isinstance(value, list) and value and all(type(item) is int for item in value):
                flat[name] = tuple(value)
            elif isinstance(value, str) or type(value) is int:
                flat[name] = value
            else:
                raise table.wrong(name, f"expected a number, a string or a row of numbers, not {value!r}")

    walk(table.take_all(), "")
    return flat


def _device(table: Table, name: str, stack: str) -> DeviceConfig:
    if name == "lo":
        raise ConfigError(table.source, table.where, "every stack has a device lo of its own: expected another name")
    driver = table.choice("driver", DRIVERS)
    config = DeviceConfig(table.where, name, driver)
    config.addresses = table.strings("addresses")
    for text in config.addresses:
        _interface(table, "addresses", text)
    config.up = table.boolean("up", True)
    config.mac = table.string("mac", "") or None
    if config.mac is not None and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", config.mac):
        raise table.wrong("mac", f"expected a MAC address such as 02:00:00:00:00:01, not {config.mac!r}")
    config.mtu = table.integer("mtu", 0, 68, 65521) or None
    if driver == "veth":
        text = table.string("peer")
        there, dot, device = text.rpartition(".")
        if not dot or not there or not device:
            raise table.wrong("peer", f"expected STACK.DEVICE, not {text!r}")
        config.peer = (there, device)
        for key in IMPAIRMENTS:
            if key not in table:
                continue
            if key in _WHOLE:
                config.impairments[key] = table.integer(key, 0, 0, 1 << 62)
            else:
                config.impairments[key] = table.number(key, 0.0, 0.0, 1.0 if key in _FRACTIONS else 1e15)
    else:
        config.host = table.string("host", name)
        if not config.host or len(config.host.encode()) > 15 or re.search(r"[/\s]", config.host):
            raise table.wrong("host", f"expected the name of an interface, at most 15 bytes, not {config.host!r}")
        config.host_address = table.string("host-address", "") or None
        if config.host_address is not None:
            _interface(table, "host-address", config.host_address)
        config.offload = table.boolean("offload", True)
    table.end()
    return config


def _route(table: Table, stack: StackConfig) -> RouteConfig:
    destination = table.string("destination")
    if destination != "default":
        try:
            ipaddress.IPv4Network(destination)
        except ValueError as cause:
            text = f"expected default, an address or a prefix, not {destination!r} ({cause})"
            raise table.wrong("destination", text) from None
    route = RouteConfig(table.where, destination)
    route.via = table.string("via", "") or None
    if route.via is not None:
        _address(table, "via", route.via)
    route.dev = table.string("dev", "") or None
    if route.dev is not None and route.dev != "lo" and route.dev not in stack.devices:
        there = ", ".join(["lo", *stack.devices])
        raise table.wrong("dev", f"there is no device {route.dev!r} in stack {stack.name!r}: expected one of {there}")
    route.src = table.string("src", "") or None
    if route.src is not None:
        _address(table, "src", route.src)
    route.metric = table.integer("metric", 0, 0, 0xFFFFFFFF)
    route.kind = table.choice("type", ROUTE_KINDS, "unicast")
    route.onlink = table.boolean("onlink", False)
    table.end()
    if route.kind == "unicast" and route.via is None and route.dev is None:
        raise ConfigError(table.source, table.where, "expected a gateway (via), a device (dev), or both")
    return route


def _address(table: Table, key: str, text: str) -> str:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        raise table.wrong(key, f"expected an IPv4 address, not {text!r}") from None
    return text


def _interface(table: Table, key: str, text: str) -> ipaddress.IPv4Interface:
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError:
        interface = None
    if interface is None or "/" not in text:
        raise table.wrong(key, f"expected something like 10.77.0.2/24, not {text!r}")
    return interface


def _check_addresses(source: str, config: StackConfig) -> None:
    """No address twice, and no network on two devices: then it would be left to chance where a packet goes."""
    seen: list[tuple[str, str, ipaddress.IPv4Interface]] = []
    for device in config.devices.values():
        for text in device.addresses:
            interface = ipaddress.IPv4Interface(text)
            for name, other_text, other in seen:
                same = interface.ip == other.ip
                if same or (name != device.name and interface.network.overlaps(other.network)):
                    raise ConfigError(
                        source, f"{device.where}.addresses", f"{text} overlaps {other_text} of device {name}"
                    )
            seen.append((device.name, text, interface))
        if device.host_address is not None:
            theirs = ipaddress.IPv4Interface(device.host_address).ip
            if any(theirs == interface.ip for _, _, interface in seen):
                raise ConfigError(source, f"{device.where}.host-address", f"{theirs} is an address of the stack's own")


def _check_hosts_devices(source: str, stacks: dict[str, StackConfig]) -> None:
    """An interface of the host's serves one device."""
    used: dict[str, str] = {}
    for config in stacks.values():
        for device in config.devices.values():
            if device.driver == "veth":
                continue
            if device.host in used:
                text = f"the host's interface {device.host!r} serves {used[device.host]} already"
                raise ConfigError(source, f"{device.where}.host", text)
            used[device.host] = device.where


def _check_peers(source: str, stacks: dict[str, StackConfig]) -> None:
    """The two ends of a veth name each other, and one of them says what the cable is like."""
    for config in stacks.values():
        for device in config.devices.values():
            if device.driver != "veth":
                continue
            there, name = device.peer
            where = f"{device.where}.peer"
            peer = stacks[there].devices.get(name) if there in stacks else None
            if peer is None:
                raise ConfigError(source, where, f"there is no device {name!r} of a stack {there!r}")
            if peer.driver != "veth" or peer.peer != (config.name, device.name) or peer is device:
                raise ConfigError(source, where, f"{there}.{name} is no veth whose peer is {config.name}.{device.name}")
            if device.impairments and peer.impairments:
                text = f"{min(device.impairments)} is for one end of the cable to say, and {peer.where} does"
                raise ConfigError(source, device.where, text)
