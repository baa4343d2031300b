"""The kinds of option values of the command line, and the options of commands that build a stack."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import click

from usernet.cli import units

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    # Older versions of click have no parameter there.
    _ParamType = click.ParamType


class Unit(_ParamType):
    """A value with a unit, by one of `units`' parsers."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


def _interface(text: str) -> str:
    try:
        ipaddress.IPv4Interface(text)
    except ValueError:
        text_ok = False
    else:
        text_ok = "/" in text
    if not text_ok:
        raise ValueError(f"expected something like 10.77.0.2/24, not {text!r}")
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError(f"expected an address such as 10.77.0.1, not {text!r}") from None


def _host(text: str) -> tuple[str, str]:
    """A name with its address: "db.test=10.0.0.5"."""
    name, sign, address = text.partition("=")
    if not name or not sign or any(character.isspace() for character in name):
        raise ValueError(f"expected NAME=ADDRESS, not {text!r}")
    return name, _address(address)


@final
class Route:
    """A route of the command line: "default via 10.77.0.1", "10.8.0.0/16"."""

    def __init__(self, text: str) -> None:
        words = text.split()
        self.destination = words[0] if words else ""
        self.via: str | None = None
        if len(words) == 3 and words[1] == "via":
            self.via = words[2]
        elif len(words) != 1:
            raise ValueError(f"expected DESTINATION or DESTINATION via GATEWAY, not {text!r}")
        try:
            if self.destination != "default":
                ipaddress.IPv4Network(self.destination)
            if self.via is not None:
                ipaddress.IPv4Address(self.via)
        except ValueError as cause:
            raise ValueError(f"expected something like default via 10.77.0.1, not {text!r} ({cause})") from None


TIME = Unit("time", units.parse_time)
RATE = Unit("rate", units.parse_rate)
FRACTION = Unit("fraction", units.parse_fraction)
SIZE = Unit("size", units.parse_size)
INTERFACE = Unit("address/length", _interface)
ROUTE = Unit("route", Route)
ADDRESS = Unit("address", _address)
HOST = Unit("name=address", _host)
