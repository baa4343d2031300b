"""`usernet run -- COMMAND`: a stack for the command, the supervisor that serves it, and the wait for its end."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack, closing
from functools import partial
from typing import Final, NoReturn, final

import click

from usernet.cli.build import StackOptions
from usernet.netd.backend import Backend, LocalBackend
from usernet.netd.descriptors import raise_descriptors
from usernet.netd.drain import drain
from usernet.netd.supervisor import bpf, resolve, seccomp
from usernet.netd.supervisor.abi import of_this_machine
from usernet.netd.supervisor.launch import Command, LaunchError
from usernet.netd.supervisor.resolve import NameFiles
from usernet.netd.supervisor.supervisor import Supervisor
from usernet.netd.supervisor.waiting import Waiting, end_as
from usernet.stack import Stack

FAILED: Final = 125
"""The exit status where it was not the command that failed, as of env(1) and timeout(1)."""
DRAIN_SECONDS: Final = 10.0
"""How long the stack goes on after the command, where it still has something to send."""


@final
class RunError(click.ClickException):
    """The command was not run, and it isn't the command's fault."""

    exit_code = FAILED


@final
class RunOptions:
    """What the options said, beside those of the stack."""

    def __init__(
        self, own: bool, verbose: bool, nameservers: tuple[str, ...], hosts: tuple[tuple[str, str], ...], io_uring: bool
    ) -> None:
        self.own = own
        self.verbose = verbose
        self.nameservers = nameservers
        self.io_uring = io_uring
        self.hosts: dict[str, list[str]] = {}
        for name, address in hosts:
            self.hosts.setdefault(name, []).append(address)


def run_command(argv: tuple[str, ...], stack: StackOptions, options: RunOptions) -> NoReturn:
    """Run the command, and end as it ended. Raises click.ClickException where it could not be run."""

    def say(line: str) -> None:
        if options.verbose:
            print(f"usernet: {line}", file=sys.stderr, flush=True)

    # First the signals and the fork: with the stack come threads.
    waiting = Waiting(say)
    install = partial(seccomp.install, bpf.build(of_this_machine(), io_uring=options.io_uring))
    with Command(argv, install, mask=waiting.mask) as command:
        raise_descriptors()
        try:
            with ExitStack() as exits:
                backend, names, own = _stack(exits, stack, options, command.namespaces.mount)
                notify = command.install(names)
                for problem in command.problems:
                    say(problem)
                supervisor = Supervisor(backend, notify, verbose=say if options.verbose else None)
                exits.callback(supervisor.close)
                supervisor.start()
                if own is not None:
                    exits.callback(_finish, own, backend)
                command.go()
                status = waiting.wait(command.pid)
        except BaseException as problem:
            command.close()
            waiting.wait(command.pid)
            if isinstance(problem, click.ClickException) and not isinstance(problem, click.UsageError):
                raise RunError(problem.message) from None
            if isinstance(problem, OSError):
                raise RunError(problem.strerror or str(problem)) from None
            if not isinstance(problem, LaunchError):
                raise
            print(f"usernet: {problem}", file=sys.stderr)
            status = problem.status
        finally:
            waiting.end()
    end_as(status)


def _stack(
    exits: ExitStack, options: StackOptions, more: RunOptions, own_names: bool
) -> tuple[Backend, NameFiles, Stack | None]:
    """Who has the stack of the command, and the names it is to see; the stack itself where it is this process's.
    own_names: the command can be shown names."""
    if options.only_named() or not (options.kind or options.capture or more.own):
        served = _served(exits, options.stack, more)
        if served is not None:
            return (*served, None)
    if options.kind:
        stack = exits.enter_context(options.open("run"))
        stack.nameservers = list(more.nameservers) or resolve.host_nameservers()
    else:
        try:
            from usernet.netd.supervisor.host import Host
        except ModuleNotFoundError as missing:
            if missing.name is None or missing.name.partition(".")[0] != "dns":
                raise
            raise RunError("host.usernet needs dnspython: pip install 'usernet[netd]'") from None
        host = exits.enter_context(Host())
        stack = exits.enter_context(options.open("run"))
        host.join(stack)
        if not own_names:
            # The command reads the host's resolv.conf, so the host that is there has to be whoever stands in it.
            host.answer_as(resolve.host_nameservers(loopback=True), stack)
        if more.nameservers:
            stack.nameservers = list(more.nameservers)
    stack.hosts.update(more.hosts)
    own = [address.partition("/")[0] for name in stack.devices if name != "lo" for address in stack.addresses(name)]
    backend = LocalBackend(stack)
    exits.callback(backend.close)
    return backend, NameFiles(stack.hosts, stack.nameservers, stack.names.search, own=own), stack


def _served(exits: ExitStack, name: str, more: RunOptions) -> tuple[Backend, NameFiles] | None:
    """The stack of a running service. name: "" for the default one, of which it is no fault not to run: None."""
    try:
        from usernet.netd.client import Client
        from usernet.netd.connection import ServiceError
        from usernet.netd.remote_backend import RemoteBackend
    except ModuleNotFoundError as missing:
        if missing.name != "msgspec":
            raise
        if not name:
            return None
        raise RunError("--stack needs msgspec: pip install 'usernet[netd]'") from None
    try:
        with Client(name) as client:
            hosts, nameservers, search, settings, own = json.loads(client.command("names"))
        backend = exits.enter_context(closing(RemoteBackend(name)))
    except (ServiceError, ValueError) as problem:
        if not name:
            return None
        told = problem.strerror if isinstance(problem, ServiceError) else ""
        raise RunError(f"--stack {name}: {told or problem}") from None
    hosts.update(more.hosts)
    return backend, NameFiles(hosts, list(more.nameservers) or nameservers, search, settings, own)


def _finish(stack: Stack, backend: Backend) -> None:
    """Let the stack send what the processes have left; a signal has it end at once."""
    wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    assert isinstance(backend, LocalBackend)
    drain(stack, DRAIN_SECONDS, lambda: bool(signal.sigpending() & wanted), lambda: bool(backend.table))
