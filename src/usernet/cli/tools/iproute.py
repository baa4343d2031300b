"""`ip`: addresses, devices, routes, neighbours and TCP's metrics, in the words and layouts of iproute2 (ip(8))."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

from usernet.cli.tools.common import Text, UsageError, find_device, locked, to_json
from usernet.cli.tools.iplink import link, link_entry, link_lines, parse_mac, selected, stats_lines
from usernet.cli.tools.tcpmetrics import tcp_metrics
from usernet.cli.tools.words import Format, Words
from usernet.ip.fib import KIND_NAMES, RTPROT_BOOT, FibRoute
from usernet.ip.metrics import ROUTE_FEATURES, ROUTE_METRICS, TIMES
from usernet.ip.text import parse_address, parse_interface, parse_prefix
from usernet.ip.v4.devinet import Devinet, IfAddr
from usernet.ip.v4.ipv4 import Ipv4
from usernet.ip.v4.route import Ipv4Routes
from usernet.link.arp import Arp
from usernet.link.neighbour import NUD_NAMES, NUD_NOARP, Neighbour
from usernet.net.dst import RTAX_LOCK
from usernet.netdevice.device import NetDevice
from usernet.sock.af_ops import RTN_UNICAST, Flow
from usernet.stack import ROUTE_KINDS, Stack
from usernet.wire.ipv4 import format_addr

OBJECTS: Final = ("address", "link", "route", "neighbour", "tcp_metrics", "tcpmetrics")
SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
PROTOCOLS: Final = {1: "redirect", 2: "kernel", 3: "boot", 4: "static"}
USAGE: Final = "ip [-j] [-p] [-s] [-br] {addr|link|route|neigh|tcp_metrics} [show|add|del|replace|set|get|flush] …"


def ip(stack: Stack, *args: str) -> Text:
    """`ip` on `stack`: ip(stack, "addr"), ip(stack, "-j", "route"), ip(stack, "link", "set", "eth0", "down").

    Returns what it prints, "" for a change. Raises UsageError; OSError where the stack refuses a change.
    """
    words = Words(args)
    form = Format()
    while words.peek().startswith("-"):
        option = words.next("option", "")
        if option in ("-j", "-json", "--json"):
            form.json = True
        elif option in ("-p", "-pretty", "--pretty"):
            form.pretty = True
        elif option in ("-s", "-stats", "-statistics"):
            form.stats = True
        elif option in ("-br", "-brief"):
            form.brief = True
        elif option not in ("-4", "-o0", "-n", "-c=never"):
            raise UsageError(f"option: expected one of -j, -p, -s, -br, -4, not {option!r}; usage: {USAGE}")
    kind = words.choose("object", OBJECTS)
    try:
        return Text(_COMMANDS[kind](stack, words, form))
    except ValueError as problem:
        if isinstance(problem, UsageError):
            raise
        raise UsageError(str(problem)) from None


# -- addresses


def _addr_entry(ifa: IfAddr) -> dict[str, Any]:
    entry: dict[str, Any] = {"family": "inet", "local": format_addr(ifa.addr), "prefixlen": ifa.prefixlen}
    if any(ifa.broadcast):
        entry["broadcast"] = format_addr(ifa.broadcast)
    entry["scope"] = SCOPES.get(ifa.scope, str(ifa.scope))
    if ifa.secondary:
        entry["secondary"] = True
    entry |= {"label": ifa.label, "valid_life_time": 4294967295, "preferred_life_time": 4294967295}
    return entry


def _addr_lines(info: dict[str, Any]) -> list[str]:
    broadcast = f" brd {info['broadcast']}" if "broadcast" in info else ""
    secondary = " secondary" if info.get("secondary") else ""
    return [
        f"    inet {info['local']}/{info['prefixlen']}{broadcast} scope {info['scope']}{secondary} {info['label']}",
        "       valid_lft forever preferred_lft forever",
    ]


def _address(stack: Stack, words: Words, form: Format) -> str:
    command = words.choose("command", ("show", "list", "add", "delete", "replace"), "show")
    if command in ("add", "delete", "replace"):
        text = words.next("address", "something like 10.0.0.1/24")
        address, length = parse_interface(text)
        dev: NetDevice | None = None
        while words.more():
            if words.choose("field", ("dev",)):
                dev = find_device(stack, words.next("dev", "a device"))
        if dev is None:
            raise UsageError(f"dev: expected one of {', '.join(stack.devices)}, and none is given")
        if len(address) != 4:
            raise UsageError(f"address: expected an IPv4 address, not {text!r}")
        if command == "delete":
            stack.remove_address(dev, text)
        elif command == "add" or text not in stack.addresses(dev):
            stack.add_address(dev, f"{ip_address(address)}/{length}")
        return ""
    devices = selected(stack, words)
    with locked(stack):
        entries = [
            link_entry(dev, form.stats) | {"addr_info": [_addr_entry(ifa) for ifa in stack.net.get(Devinet).of(dev)]}
            for dev in devices
        ]
    if form.json:
        return to_json(entries, form.pretty)
    lines: list[str] = []
    for entry in entries:
        if form.brief:
            addresses = " ".join(f"{info['local']}/{info['prefixlen']}" for info in entry["addr_info"])
            lines.append(f"{entry['ifname']:<16} {entry['operstate']:<14} {addresses}".rstrip())
            continue
        lines += link_lines(entry, "")
        if form.stats:
            lines += stats_lines(entry)
        for info in entry["addr_info"]:
            lines += _addr_lines(info)
    return "\n".join(lines)


# -- routes


def _destination(route: FibRoute) -> str:
    if route.length == 0:
        return "default"
    prefix = format_addr(route.prefix)
    return prefix if route.length == 32 else f"{prefix}/{route.length}"


def _route_entry(route: FibRoute) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if route.kind != RTN_UNICAST:
        entry["type"] = KIND_NAMES.get(route.kind, str(route.kind))
    entry["dst"] = _destination(route)
    if route.gateway is not None:
        entry["gateway"] = format_addr(route.gateway)
    if route.dev is not None:
        entry["dev"] = route.dev.name
    if route.proto != RTPROT_BOOT:
        entry["protocol"] = PROTOCOLS.get(route.proto, str(route.proto))
    if route.scope:
        entry["scope"] = SCOPES.get(route.scope, str(route.scope))
    if route.prefsrc and any(route.prefsrc):
        entry["prefsrc"] = format_addr(route.prefsrc)
    if route.metric:
        entry["metric"] = route.metric
    if route.onlink:
        entry["flags"] = ["onlink"]
    else:
        entry["flags"] = []
    # In the order of their numbers, as the kernel gives them.
    metrics: dict[str, Any] = {}
    for name, key in sorted(ROUTE_METRICS.items(), key=lambda item: item[1]):
        value = route.metrics.get(key)
        if value is None:
            continue
        if name == "features":
            metrics |= {feature: None for feature, bit in ROUTE_FEATURES.items() if value & bit}
        elif name == "fastopen_no_cookie" and route.congestion_control:
            metrics |= {"congestion": route.congestion_control, name: value}
        else:
            metrics[name] = value
    if route.congestion_control:
        metrics["congestion"] = route.congestion_control
    if metrics:
        entry["metrics"] = [metrics]
    return entry


def _metrics_text(route: FibRoute, metrics: dict[str, Any]) -> list[str]:
    """A route's metrics as text, which unlike JSON says which are locked."""
    locks = route.metrics.get(RTAX_LOCK, 0) | route.mtu_lock << ROUTE_METRICS["mtu"]
    parts: list[str] = []
    for name, value in metrics.items():
        if name in ROUTE_FEATURES:
            parts.append(name if "features" in parts else f"features {name}")
            continue
        word = "congctl" if name == "congestion" else name
        lock = "lock " if locks >> ROUTE_METRICS.get(name, 0) & 1 else ""
        parts.append(f"{word} {lock}{value}{'ms' if name in TIMES else ''}")
    return parts


def _route_line(entry: dict[str, Any], route: FibRoute | None = None) -> str:
    parts = [entry["type"]] if "type" in entry else []
    parts.append(entry["dst"])
    for key, word in (
        ("gateway", "via"), ("dev", "dev"), ("protocol", "proto"), ("scope", "scope"), ("prefsrc", "src"),
        ("metric", "metric"),
    ):  # fmt: skip
        if key in entry:
            parts.append(f"{word} {entry[key]}")
    if route is not None:
        parts += _metrics_text(route, entry.get("metrics", [{}])[0])
    return " ".join([*parts, *entry["flags"]])


def _route(stack: Stack, words: Words, form: Format) -> str:
    command = words.choose("command", ("show", "list", "add", "delete", "replace", "get", "flush"), "show")
    if command in ("add", "delete", "replace"):
        return _route_change(stack, words, command)
    if command == "get":
        return _route_get(stack, words, form)
    tables = ["main"]
    dev: NetDevice | None = None
    while words.more():
        if words.choose("field", ("table", "dev")) == "table":
            table = words.choose("table", ("main", "local", "all"))
            tables = ["main", "local"] if table == "all" else [table]
        else:
            dev = find_device(stack, words.next("dev", "a device"))
    with locked(stack):
        routes = stack.net.get(Ipv4Routes)
        found = [route for table in tables for route in routes.routes(table == "local") if dev in (None, route.dev)]
        if command == "flush":
            for route in found:
                (routes.fib.local if route in routes.routes(True) else routes.fib.main).delete(route)
            routes.fib.flush()
            return ""
        entries = [_route_entry(route) for route in found]
    if form.json:
        return to_json(entries, form.pretty)
    return "\n".join(_route_line(entry, route) for entry, route in zip(entries, found, strict=True))


def _route_change(stack: Stack, words: Words, command: str) -> str:
    kind = "unicast"
    if words.peek() in ROUTE_KINDS:
        kind = words.next("type", "")
    destination = words.next("destination", "default, an address or a prefix")
    parse_prefix(destination)
    given: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    locks: list[str] = []
    fields = ("via", "dev", "metric", "src", "onlink", "congctl", "proto", "scope", *ROUTE_METRICS)
    while words.more():
        word = words.next("field", "")
        if word not in fields:
            raise UsageError(f"field: expected one of {', '.join(fields)}, not {word!r}")
        if word == "onlink":
            given[word] = True
            continue
        value = words.next(word, "a value")
        if value == "lock" and word in ROUTE_METRICS:
            locks.append(word)
            value = words.next(word, "a value")
        if word == "dev":
            given[word] = find_device(stack, value)
        elif word in ("via", "src"):
            parse_address(word, value)
            given[word] = value
        elif word == "congctl":
            given[word] = value
        elif word == "features":
            if value not in ROUTE_FEATURES:
                raise UsageError(f"features: expected one of {', '.join(ROUTE_FEATURES)}, not {value!r}")
            metrics[word] = metrics.get(word, 0) | ROUTE_FEATURES[value]
        elif word in ("metric", *ROUTE_METRICS):
            number = value.removesuffix("ms") if word in TIMES else value
            if not number.isdecimal():
                raise UsageError(f"{word}: expected a number, not {value!r}")
            (given if word == "metric" else metrics)[word] = int(number)
    if command == "delete":
        stack.remove_route(
            destination, via=given.get("via"), dev=given.get("dev"), metric=given.get("metric")
        )
    else:
        stack.add_route(destination, kind=kind, replace=command == "replace", locked=locks, **given, **metrics)
    return ""


def _route_get(stack: Stack, words: Words, form: Format) -> str:
    text = words.next("address", "an IPv4 address")
    address = parse_address("address", text)
    if len(address) != 4:
        raise UsageError(f"address: expected an IPv4 address, not {text!r}")
    oif = 0
    if words.more():
        words.choose("field", ("oif", "dev"))
        oif = find_device(stack, words.next("oif", "a device")).index
    words.end()
    with locked(stack):
        family = stack.net.get(Ipv4).af
        dst = family.route(Flow(address, family.any, 0, oif))
        entry: dict[str, Any] = {"type": "local"} if dst.local else {}
        entry["dst"] = text
        if dst.gateway is not None:
            entry["gateway"] = format_addr(dst.gateway)
        entry |= {"dev": dst.dev.name, "prefsrc": format_addr(dst.saddr), "flags": [], "uid": 0, "cache": []}
    if form.json:
        return to_json([entry], form.pretty)
    return f"{_route_line(entry)} uid 0\n    cache{' <local>' if 'type' in entry else ''}"


# -- neighbours


def _neigh_entry(neigh: Neighbour) -> dict[str, Any]:
    entry: dict[str, Any] = {"dst": str(ip_address(neigh.addr)), "dev": neigh.dev.name}
    if neigh.ha:
        entry["lladdr"] = neigh.ha.hex(":")
    entry["state"] = [NUD_NAMES[neigh.state]]
    return entry


def _neighbour(stack: Stack, words: Words, form: Format) -> str:
    command = words.choose("command", ("show", "list", "add", "delete", "replace", "flush"), "show")
    if command in ("add", "delete", "replace"):
        address = words.next("address", "an IPv4 address")
        parse_address("address", address)
        dev: NetDevice | None = None
        mac = ""
        while words.more():
            field = words.choose("field", ("dev", "lladdr", "nud"))
            value = words.next(field, "a value")
            if field == "dev":
                dev = find_device(stack, value)
            elif field == "lladdr":
                parse_mac("lladdr", value)
                mac = value
            elif value != "permanent":
                raise UsageError(f"nud: expected permanent, not {value!r}")
        if dev is None:
            raise UsageError(f"dev: expected one of {', '.join(stack.devices)}, and none is given")
        if command == "delete":
            stack.remove_neighbour(dev, address)
        elif not mac:
            raise UsageError("lladdr: expected a MAC address, and none is given")
        else:
            stack.add_neighbour(dev, address, mac)
        return ""
    devices = selected(stack, words)
    with locked(stack):
        table = stack.net.get(Arp).table
        found = [n for n in table if n.dev in devices and n.state and not n.state & NUD_NOARP]
        entries = [_neigh_entry(neigh) for neigh in found]
    if command == "flush":
        for entry in entries:
            if entry["state"] != ["PERMANENT"]:
                with suppress(FileNotFoundError):  # it may have gone meanwhile
                    stack.remove_neighbour(entry["dev"], entry["dst"])
        return ""
    if form.json:
        return to_json(entries, form.pretty)
    return "\n".join(
        f"{e['dst']} dev {e['dev']}{' lladdr ' + e['lladdr'] if 'lladdr' in e else ''} {e['state'][0]}" for e in entries
    )


_COMMANDS: Final[dict[str, Callable[[Stack, Words, Format], str]]] = {
    "address": _address,
    "link": link,
    "route": _route,
    "neighbour": _neighbour,
    "tcp_metrics": tcp_metrics,
    "tcpmetrics": tcp_metrics,
}
