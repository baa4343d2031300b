"""`tcpdump`: packets of a capture file, or of a stack as they pass, in the layout of tcpdump(8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final

from usernet.cli.filter import FilterError, compile_filter
from usernet.cli.packet import Packet
from usernet.cli.show import Printer
from usernet.cli.sniff import Sniffer
from usernet.cli.tools.common import Lines, Options, Out, Text, UsageError, find_device, number
from usernet.cli.tools.timing import Pause
from usernet.drivers.capture import Capture
from usernet.stack import Stack
from usernet.wire import pcapng
from usernet.wire.errors import WireError

PORTS: Final = {
    (6, 21): "ftp", (6, 22): "ssh", (6, 23): "telnet", (6, 25): "smtp", (6, 53): "domain", (17, 53): "domain",
    (17, 67): "bootps", (17, 68): "bootpc", (6, 80): "http", (17, 123): "ntp", (6, 443): "https",
}  # fmt: skip
DIRECTION: Final = 3
"""The bits of a packet's flags in a capture that say it."""


def tcpdump(stack: Stack | None, *args: str, out: Out | None = None, duration: float | None = None) -> Text:
    """`tcpdump`: tcpdump(None, "-r", "file.pcapng", "tcp port 80"), tcpdump(stack, "-i", "eth0", "-c", "10").

    -r FILE: read a capture, pcap or pcapng; else look at `stack`. -i DEVICE: only that one's ("any": all). -n: ports as
    numbers. -v: IP headers and checksums. -e: link headers. -c N: end after N packets. -S: sequence numbers as they
    are. -t: no time; -tt: since 1970; -ttttt: since the first. -w FILE: write them to a capture instead. What follows
    is a filter (cli/filter.py).

    duration: seconds to look at a stack for, where -c doesn't end it before; None: until interrupted.

    Returns what it prints. Raises UsageError; OSError where a file can't be read or written.
    """
    chosen, wanted, printer = _choose(args)
    lines = Lines(out)
    if chosen.read is not None:
        with open(chosen.read, "rb") as file:
            _read(file, chosen.read, wanted, printer, chosen.count or 0, chosen.device, lines)
        return lines.text()
    if stack is None:
        raise UsageError("-r: expected a capture file, for there is no stack to look at")
    device = None if chosen.device in (None, "any") else find_device(stack, chosen.device, "-i")
    if chosen.write is not None:
        return _write(stack, chosen.write, device.name if device is not None else None, duration)
    printer.device = device is None
    pause = Pause(stack)
    left = chosen.count or -1

    def show(packet: Packet) -> None:
        nonlocal left
        if left and wanted(packet):
            lines.add(printer.line(packet))
            left -= 1
            if not left:
                pause.end()

    with Sniffer(stack, show, device):
        try:
            pause.wait(duration)
        except KeyboardInterrupt:
            pass  # enough
    return lines.text()


def _choose(args: Sequence[str]) -> tuple[Any, Callable[[Packet], bool], Printer]:
    """The options, what they want to see, and how. Raises UsageError."""
    options = Options("tcpdump", "tcpdump [-neSvt] [-c COUNT] [-i DEVICE] [-r FILE | -w FILE] [FILTER]")
    options.add_argument("-r", dest="read", metavar="FILE")
    options.add_argument("-w", dest="write", metavar="FILE")
    options.add_argument("-i", dest="device", metavar="DEVICE")
    options.add_argument("-c", dest="count", type=number("a number of packets", 1, 1 << 62))
    for flag, name in (("n", "numeric"), ("e", "ethernet"), ("S", "absolute"), ("l", "lines"), ("q", "quiet")):
        options.add_argument(f"-{flag}", dest=name, action="store_true")
    options.add_argument("-v", dest="verbose", action="count", default=0)
    options.add_argument("-t", dest="stamp", action="count", default=0)
    options.add_argument("filter", nargs="*")
    chosen = options.parse(args)
    if chosen.stamp not in (0, 1, 2, 5):
        raise UsageError("-t: expected -t, -tt or -ttttt")
    try:
        wanted = compile_filter(chosen.filter)
    except FilterError as problem:
        raise UsageError(str(problem)) from None
    printer = Printer(
        ethernet=chosen.ethernet,
        verbose=chosen.verbose > 0,
        absolute=chosen.absolute,
        stamp={0: "time", 1: "none", 2: "epoch", 5: "start"}[chosen.stamp],
        ports=None if chosen.numeric else PORTS,
    )
    return chosen, wanted, printer


def read_live(args: Sequence[str], out: Out | None) -> tuple[Any, Callable[[BinaryIO], None], Lines]:
    """For a capture that another process makes, as it comes: the options, what shows it, of a file, and the lines that
    it shows.

    Raises UsageError.
    """
    chosen, wanted, printer = _choose(args)
    lines = Lines(out)
    printer.device = chosen.device in (None, "any")

    def show(file: BinaryIO) -> None:
        _read(file, "-", wanted, printer, chosen.count or 0, None, lines)

    return chosen, show, lines


def _write(stack: Stack, path: str, device: str | None, duration: float | None) -> Text:
    capture: Capture = stack.capture(path, None if device is None else [device])
    try:
        Pause(stack).wait(duration)
    except KeyboardInterrupt:
        pass  # enough
    finally:
        capture.stop()
    return Text(f"{capture.packets} packets captured, {capture.dropped} drops")


def _read(
    file: BinaryIO, name: str, wanted: Callable[[Packet], bool], printer: Printer, count: int, device: str | None,
    lines: Lines,
) -> None:
    shown = 0
    try:
        reader = pcapng.PcapReader(file)
        for record in reader:
            interface = reader.interfaces[record.if_index].name
            if device is not None and device not in ("any", interface):
                continue
            packet = Packet(record.data, record.linktype, record.ts_ns, 0, interface)
            packet.comment = record.comment or ""
            if record.flags is not None and record.flags & DIRECTION:
                packet.outgoing = record.flags & DIRECTION == pcapng.EPB_OUTBOUND
            if wanted(packet):
                lines.add(printer.line(packet))
                shown += 1
                if shown == count:
                    break
    except WireError as problem:
        raise UsageError(f"-r: {name} is no whole capture file: {problem}") from None
