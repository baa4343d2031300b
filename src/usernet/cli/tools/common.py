"""What the tools share: their result, their errors, their option parser."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, final

from usernet.netd.command import Text as Text
from usernet.netd.command import UsageError as UsageError
from usernet.netdevice.device import NetDevice
from usernet.stack import Stack

Out = Callable[[str], None]


@final
class Lines:
    """Collects a tool's lines, and passes each on as it comes."""

    def __init__(self, out: Out | None) -> None:
        self._out = out
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines.append(line)
        if self._out is not None:
            self._out(line)

    def text(self, status: int = 0) -> Text:
        return Text("\n".join(self._lines), status)


@final
class Options(argparse.ArgumentParser):
    """A tool's options. What doesn't fit raises UsageError; `-h` and `--help` raise it too, with the whole usage."""

    def __init__(self, tool: str, usage: str = "") -> None:
        super().__init__(prog=tool, usage=usage or None, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        """Raises UsageError."""
        return self.parse_args(list(args))


def number(what: str, low: float, high: float, kind: type = int) -> Callable[[str], Any]:
    """A parser of numbers from `low` to `high`, for `Options.add_argument(type=…)`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {what} from {low} to {high}, not {text!r}")
        return value

    return parse


@contextmanager
def locked(stack: Stack) -> Iterator[None]:
    """The stack's lock, for a look at what is in it."""
    stack.loop.enter()
    try:
        yield
    finally:
        stack.loop.leave()


def find_device(stack: Stack, name: str, field: str = "dev") -> NetDevice:
    """Raises UsageError for a name that no device has."""
    try:
        return stack.devices[name]
    except KeyError:
        raise UsageError(f"{field}: expected one of {', '.join(stack.devices)}, not {name!r}") from None


def resolve(stack: Stack, host: str, field: str = "host") -> str:
    """An IPv4 address, or a name of `stack.hosts`. Raises UsageError."""
    import ipaddress

    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        known = [address for address in stack.hosts.get(host, []) if ":" not in address]
    if not known:
        raise UsageError(f"{field}: expected an IPv4 address or a name of the stack's hosts, not {host!r}")
    return known[0]


def to_json(value: Any, pretty: bool = False) -> str:
    """As the `-j` of iproute2: one line, or indented."""
    return json.dumps(value, indent=4 if pretty else None, separators=None if pretty else (",", ":"))
