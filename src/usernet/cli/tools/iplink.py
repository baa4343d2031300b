"""`ip link`: devices, in the words and layouts of iproute2 (ip-link(8))."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from usernet.cli.tools.common import UsageError, find_device, locked, to_json
from usernet.cli.tools.words import Format, Words
from usernet.netdevice import device as netdev
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import ARPHRD_ETHER
from usernet.stack import Stack
from usernet.wire import ethernet

FLAGS: Final = (
    (netdev.IFF_LOOPBACK, "LOOPBACK"), (netdev.IFF_BROADCAST, "BROADCAST"), (netdev.IFF_POINTOPOINT, "POINTOPOINT"),
    (netdev.IFF_MULTICAST, "MULTICAST"), (netdev.IFF_NOARP, "NOARP"), (netdev.IFF_ALLMULTI, "ALLMULTI"),
    (netdev.IFF_PROMISC, "PROMISC"), (netdev.IFF_UP, "UP"),
)  # fmt: skip


def _flags(dev: NetDevice) -> list[str]:
    names = [name for bit, name in FLAGS if dev.flags & bit]
    if dev.up:
        names.append("LOWER_UP") if dev.running else names.insert(0, "NO-CARRIER")
    return names


def _state(dev: NetDevice) -> str:
    if not dev.up:
        return "DOWN"
    if dev.loopback or not dev.has_link_header:
        return "UNKNOWN"
    return "UP" if dev.running else "DOWN"


def _link_type(dev: NetDevice) -> str:
    return "loopback" if dev.loopback else "ether" if dev.link_type == ARPHRD_ETHER else "none"


def link_entry(dev: NetDevice, stats: bool) -> dict[str, Any]:
    """A device as `ip -j link` has it. stats: with its counters."""
    entry: dict[str, Any] = {
        "ifindex": dev.index,
        "ifname": dev.name,
        "flags": _flags(dev),
        "mtu": dev.mtu,
        "qdisc": "pfifo_fast" if dev.driver.queue_length else "noqueue",
        "operstate": _state(dev),
        "group": "default",
        "txqlen": dev.driver.queue_length or 1000,
        "link_type": _link_type(dev),
    }
    if dev.has_link_header:
        entry["address"] = dev.mac.hex(":")
        entry["broadcast"] = bytes(6).hex(":") if dev.loopback else dev.broadcast.hex(":")
    if stats:
        counters = dev.statistics
        entry["stats64"] = {
            "rx": {
                "bytes": counters.rx_bytes, "packets": counters.rx_packets, "errors": counters.rx_errors,
                "dropped": counters.rx_dropped, "over_errors": counters.rx_over_errors,
                "multicast": counters.multicast,
            },
            "tx": {
                "bytes": counters.tx_bytes, "packets": counters.tx_packets, "errors": counters.tx_errors,
                "dropped": counters.tx_dropped, "carrier_errors": counters.tx_carrier_errors,
                "collisions": counters.collisions,
            },
        }  # fmt: skip
    return entry


def link_lines(entry: dict[str, Any], mode: str) -> list[str]:
    """A device as people read it. mode: what stands before its group."""
    head = f"{entry['ifindex']}: {entry['ifname']}: <{','.join(entry['flags'])}> mtu {entry['mtu']}"
    rest = f"qdisc {entry['qdisc']} state {entry['operstate']} {mode}group default qlen {entry['txqlen']}"
    lines = [f"{head} {rest}"]
    addresses = f" {entry['address']} brd {entry['broadcast']}" if "address" in entry else ""
    lines.append(f"    link/{entry['link_type']}{addresses}")
    return lines


def stats_lines(entry: dict[str, Any]) -> list[str]:
    """The counters of a device, in two rows each way."""
    lines = []
    for way, last in (("rx", ("missed", "mcast")), ("tx", ("carrier", "collsns"))):
        titles = ("bytes", "packets", "errors", "dropped", *last)
        values = [str(value) for value in entry["stats64"][way].values()]
        widths = [max(len(title), len(value)) for title, value in zip(titles, values, strict=True)]
        # iproute2 indents the numbers by as much as "RX:" takes, and right-aligns both rows.
        head = " ".join(title.rjust(width) for title, width in zip(titles, widths, strict=True))
        row = " ".join(value.rjust(width) for value, width in zip(values, widths, strict=True))
        lines += [f"    {way.upper()}:  {head}", f"         {row}"]
    return lines


def selected(stack: Stack, words: Words, field: str = "dev") -> list[NetDevice]:
    """The devices that `show [dev] NAME` asks for."""
    if not words.more():
        return list(stack.devices.values())
    word = words.next(field, "a device")
    if word == "dev":
        word = words.next(field, "a device")
    words.end()
    return [find_device(stack, word, field)]


def link(stack: Stack, words: Words, form: Format) -> str:
    """`ip link`: returns what it prints, "" for a change. Raises UsageError, OSError."""
    command = words.choose("command", ("show", "list", "set", "delete"), "show")
    if command == "set":
        return _link_set(stack, words)
    if command == "delete":
        devices = selected(stack, words)
        if len(devices) != 1:
            raise UsageError(f"dev: expected one of {', '.join(stack.devices)}")
        stack.remove_device(devices[0])
        return ""
    devices = selected(stack, words)
    with locked(stack):
        entries = [link_entry(dev, form.stats) for dev in devices]
    for entry in entries:
        entry["linkmode"] = "DEFAULT"
    if form.json:
        return to_json(entries, form.pretty)
    if form.brief:
        rows = [(e["ifname"], e["operstate"], e.get("address", ""), f"<{','.join(e['flags'])}>") for e in entries]
        return "\n".join(f"{name:<16} {state:<14} {mac} {flags}".rstrip() for name, state, mac, flags in rows)
    lines: list[str] = []
    for entry in entries:
        lines += link_lines(entry, "mode DEFAULT ")
        if form.stats:
            lines += stats_lines(entry)
    return "\n".join(lines)


def _link_set(stack: Stack, words: Words) -> str:
    name = words.next("dev", "a device")
    if name == "dev":
        name = words.next("dev", "a device")
    dev = find_device(stack, name)
    changes: list[Callable[[], None]] = []
    while words.more():
        what = words.choose("setting", ("up", "down", "mtu", "name", "address"))
        if what == "up":
            changes.append(lambda: stack.set_up(dev))
        elif what == "down":
            changes.append(lambda: stack.set_down(dev))
        elif what == "mtu":
            text = words.next("mtu", "a number of bytes")
            low, high = dev.driver.min_mtu, dev.driver.max_mtu
            if not text.isdecimal() or not low <= int(text) <= high:
                raise UsageError(f"mtu: expected {low} to {high}, not {text!r}")
            changes.append(lambda mtu=int(text): stack.set_mtu(dev, mtu))  # type: ignore[misc]
        elif what == "name":
            new = words.next("name", "a name")
            changes.append(lambda new=new: stack.rename_device(dev, new))  # type: ignore[misc]
        else:
            mac = words.next("address", "a MAC address")
            if not ethernet.is_valid_ether_addr(parse_mac("address", mac)):
                raise UsageError(f"address: expected a unicast MAC address, not {mac!r}")
            changes.append(lambda mac=mac: stack.set_mac(dev, mac))  # type: ignore[misc]
    if not changes:
        raise UsageError("setting: expected one of up, down, mtu, name, address")
    for change in changes:
        change()
    return ""


def parse_mac(field: str, text: str) -> bytes:
    """A MAC address as people write it. Raises UsageError, which names `field`."""
    try:
        return ethernet.parse_mac(text)
    except ValueError:
        raise UsageError(f"{field}: expected a MAC address such as 02:00:00:00:00:01, not {text!r}") from None
