"""The tools on the stack of a running service: `usernet ss --stack main`.

Those that look at the stack or change it (ip, ss, sysctl, nstat) are run by the service, which was given them here.
Those that talk to other hosts (ping, traceroute, nc) run in this process, on sockets of the service. tcpdump shows here
what the service captures there.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast, final

from usernet.cli import tools
from usernet.cli.tools.common import Text
from usernet.cli.tools.dump import read_live
from usernet.cli.tools.timing import Elsewhere

if TYPE_CHECKING:
    from usernet.netd.client import Client
    from usernet.netd.control import ServedCommand
    from usernet.stack import Stack

RUN_BY_SERVICE: Final = ("ip", "ss", "sysctl", "nstat")

_LOOKING: Final = frozenset({"show", "list", "ls", "lst", "get"})


def _ip_reads(words: Sequence[str]) -> bool:
    """Whether the words of an `ip` command only look: no verb, or a whole one that changes nothing."""
    rest = [word for word in words if not word.startswith("-")]
    return len(rest) < 2 or rest[1] in _LOOKING


def _ss_reads(words: Sequence[str]) -> bool:
    """-i shows the keys of TCP MD5, which are not for everybody."""
    return not any(word == "--info" or (word[:1] == "-" != word[1:2] and "i" in word) for word in words)


def _sysctl_reads(words: Sequence[str]) -> bool:
    return not any("=" in word or word == "--write" or (word[:1] == "-" and "w" in word) for word in words)


def _names(stack: Stack) -> Text:
    """What names there are, for who is in another process: hosts, nameservers, search list, options, own addresses."""
    own = [address.partition("/")[0] for name in stack.devices if name != "lo" for address in stack.addresses(name)]
    names = stack.names
    return Text(json.dumps([stack.hosts, stack.nameservers, names.search, [f"ndots:{names.ndots}"], own]))


def commands() -> dict[str, ServedCommand]:
    """What a service is given to run."""
    from usernet.netd.control import ServedCommand

    return {
        "ip": ServedCommand(tools.ip, _ip_reads),
        "ss": ServedCommand(tools.ss, _ss_reads),
        "sysctl": ServedCommand(tools.sysctl, _sysctl_reads),
        "nstat": ServedCommand(tools.nstat, lambda words: True),
        "names": ServedCommand(_names, lambda words: True),
    }


@final
class ServedStack(Elsewhere):
    """As much of a stack as those tools need that run here: its sockets, its names, and time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.hosts: dict[str, list[str]] = json.loads(client.command("names"))[0]

    def socket(self, family: int = 2, type: int = 1, proto: int = 0) -> Any:
        return self._client.socket(family, type, proto)

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@final
class _Pieces(io.RawIOBase):
    """A file to read of pieces that come one by one."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def run(client: Client, tool: str, args: Sequence[str], **streams: Any) -> Text:
    """Run a tool; returns what it prints. streams: `out`, `input`, `output`, as the tools take them.

    Raises UsageError, OSError.
    """
    if tool in RUN_BY_SERVICE:
        return client.command(tool, *args)
    if tool == "tcpdump":
        return _tcpdump(client, args, streams.get("out"))
    function = getattr(tools, tool)
    stack = cast("Stack", ServedStack(client))
    text: Text = function(stack, *args, **streams)
    return text


def _tcpdump(client: Client, args: Sequence[str], out: Any) -> Text:
    chosen, show, lines = read_live(args, out)
    devices = () if chosen.device in (None, "any") else (chosen.device,)
    with client.watch(*devices) as pieces:
        file = io.BufferedReader(_Pieces(pieces), 1 << 16)
        try:
            if chosen.write is not None:
                with open(chosen.write, "wb") as kept:
                    shutil.copyfileobj(file, kept, 1)
            else:
                show(file)
        except KeyboardInterrupt:
            pass  # enough
    if pieces.lost:
        lines.add(f"{pieces.lost} packets lost: this end was slower than they came")
    return lines.text()
