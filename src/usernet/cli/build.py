"""The stack that a command works on, from its options: `--tap tap0 --address 10.77.0.2/24 --route "default via …"`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import click

from usernet.cli import params
from usernet.netdevice.driver import Driver
from usernet.stack import Stack

NAMES = ("stack", "tap", "tun", "addresses", "routes", "host_address", "mtu", "capture")


@final
class StackOptions:
    """What the options said. Raises click.UsageError where they don't go together."""

    def __init__(
        self, stack: str, tap: str, tun: str, addresses: tuple[str, ...], routes: tuple[params.Route, ...],
        host_address: str | None, mtu: int | None, capture: str,
    ) -> None:  # fmt: skip
        if tap and tun:
            raise click.BadParameter("expected one of --tap and --tun, not both", param_hint="--tun")
        self.stack = stack
        self.kind = "tap" if tap else "tun" if tun else ""
        self.host_name = tap or tun
        given = (("--address", addresses), ("--route", routes), ("--host-address", host_address), ("--mtu", mtu))
        for name, value in given:
            if value and not self.kind:
                raise click.BadParameter("expected only with --tap or --tun", param_hint=name)
        self.addresses = addresses
        self.routes = routes
        self.host_address = host_address
        self.mtu = mtu
        self.capture = capture

    def only_named(self) -> bool:
        """Whether they name the stack of a service. Raises click.UsageError where they say more of it."""
        if self.stack and (self.kind or self.capture):
            text = "expected without --tap, --tun and --capture: the stack of a service has its own"
            raise click.BadParameter(text, param_hint="--stack")
        return bool(self.stack)

    @contextmanager
    def open(self, name: str) -> Iterator[Stack]:
        """The stack, started; closed at the end. Raises click.ClickException where a device can't be had."""
        with Stack(name) as stack:
            if self.kind:
                self._add_device(stack)
            if not self.capture:
                yield stack
                return
            try:
                capture = stack.capture(self.capture)
            except OSError as problem:
                raise click.ClickException(f"--capture {self.capture}: {problem.strerror or problem}") from None
            with capture:
                yield stack

    def _add_device(self, stack: Stack) -> None:
        field = f"--{self.kind} {self.host_name}"
        try:
            driver = self._driver()
            stack.add_device(driver, "tun0" if self.kind == "tun" else "eth0", *self.addresses, mtu=self.mtu)
        except ModuleNotFoundError as missing:
            if missing.name != "pyroute2":
                raise
            text = "--host-address sets up the host's device by pyroute2: pip install 'usernet[netlink]'"
            raise click.ClickException(text) from None
        except ValueError as problem:
            raise click.BadParameter(str(problem), param_hint=field) from None
        except OSError as problem:
            raise click.ClickException(f"{field}: {problem.strerror or problem}") from None
        for route in self.routes:
            try:
                device = None if route.via else "tun0" if self.kind == "tun" else "eth0"
                stack.add_route(route.destination, via=route.via, dev=device)
            except OSError as problem:
                hint = f"--route {route.destination}"
                raise click.BadParameter(f"{problem.strerror or problem}", param_hint=hint) from None

    def _driver(self) -> Driver:
        from usernet.drivers.tuntap import Tap, Tun

        kind = Tap if self.kind == "tap" else Tun
        return kind(self.host_name, address=self.host_address, mtu=self.mtu or 0)


def stack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; its function gets them as `options`, a StackOptions."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        taken = {name: given.pop(name) for name in NAMES}
        return command(options=StackOptions(**taken), **given)

    for option in (
        click.option("--capture", default="", metavar="FILE", help="Write the stack's packets to a pcapng file."),
        click.option("--mtu", type=click.IntRange(68, 65521), default=None, metavar="BYTES", help="Of both ends."),
        click.option("--host-address", type=params.INTERFACE, default=None, metavar="ADDRESS/LENGTH",
                     help="Give the host's end this address, and bring it up (needs pyroute2)."),
        click.option("--route", "routes", type=params.ROUTE, multiple=True, metavar='"DESTINATION [via GATEWAY]"',
                     help="A route of the stack's. May be repeated."),
        click.option("--address", "addresses", type=params.INTERFACE, multiple=True, metavar="ADDRESS/LENGTH",
                     help="An address of the stack's device. May be repeated."),
        click.option("--tun", default="", metavar="NAME", help="Join the stack to the host's TUN interface NAME."),
        click.option("--tap", default="", metavar="NAME", help="Join the stack to the host's TAP interface NAME."),
        click.option("--stack", default="", metavar="NAME", help="The stack of a running service (`usernet up`)."),
    ):  # fmt: skip
        wrapped = option(wrapped)
    return wrapped
