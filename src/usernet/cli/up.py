"""`usernet up`: the service, from a configuration or from options."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from usernet.cli.build import StackOptions
from usernet.cli.served import commands

CONFIG: Final = "usernet.toml"


def bring_up(options: StackOptions, path: str | None, check: bool) -> int:
    """Run the service; returns the exit status. Raises click.ClickException where it can't be."""
    try:
        from usernet.netd import build, systemd
        from usernet.netd.config import Config, load
        from usernet.netd.service import Service
        from usernet.netd.table import ConfigError
    except ModuleNotFoundError as missing:
        if missing.name != "msgspec":
            raise
        raise click.ClickException("the service needs msgspec: pip install 'usernet[netd]'") from None
    given = bool(options.kind or options.stack)
    if path is None and not given and os.path.exists(CONFIG):
        path = CONFIG
    if path is not None and (given or options.capture):
        raise click.BadParameter("expected alone: the options of a stack are in the file", param_hint="--config")
    try:
        config: Config = load(path) if path is not None else _from_options(options)
        build.check(config)
        if check:
            for stack in config.stacks.values():
                click.echo(f"{config.source}: stack {stack.name}: {', '.join(stack.devices) or 'no devices'}: right")
            return 0
        with Service(config, commands(), systemd.listen_fds()) as service:
            service.run(lambda: _say(service))
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from None
    except OSError as problem:
        if path is None or problem.filename != path:
            raise
        raise click.BadParameter(f"{path}: {problem.strerror}", param_hint="--config") from None
    except ValueError as problem:
        raise click.ClickException(str(problem)) from None
    return 0


def _say(service: Any) -> None:
    for name in service.stacks:
        where = service.paths.get(name, "a socket of systemd's")
        click.echo(f"stack {name} is up at {where}")


def _from_options(options: StackOptions) -> Any:
    from usernet.netd.config import DEFAULT_STACK, read

    stack: dict[str, Any] = {"capture": options.capture}
    if options.kind:
        device: dict[str, Any] = {
            "driver": options.kind, "host": options.host_name, "addresses": list(options.addresses),
        }  # fmt: skip
        if options.host_address:
            device["host-address"] = options.host_address
        if options.mtu:
            device["mtu"] = options.mtu
        name = "tun0" if options.kind == "tun" else "eth0"
        stack["devices"] = {name: device}
        stack["routes"] = [
            {"destination": route.destination, **({"via": route.via} if route.via else {"dev": name})}
            for route in options.routes
        ]
    return read({"stack": {options.stack or DEFAULT_STACK: stack}}, "options")
