"""The command `usernet` and its subcommands."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final

import click

from usernet import __version__
from usernet.cli import params, tools
from usernet.cli.build import StackOptions, stack_options
from usernet.core.compiled import COMPILED

_VERSION: Final = f"%(prog)s %(version)s ({'compiled' if COMPILED else 'interpreted'})"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", "-V", prog_name="usernet", message=_VERSION)
def cli() -> None:
    """A network stack in user space: the demo, the tools, programs on a stack."""


@cli.command()
@click.option("--size", type=params.SIZE, default="4M", show_default=True, help="Of the file: 4M, 200k.")
@click.option("--seed", type=int, default=7, show_default=True, help="Of all chance. One seed: the same packets.")
@click.option("--delay", type=params.TIME, default="10ms", show_default=True, help="Of the cable, one way.")
@click.option("--loss", type=params.FRACTION, default="1%", show_default=True, help="Fraction of packets lost.")
@click.option("--rate", type=params.RATE, default="50mbit", show_default=True, help="Of the cable; 0: no limit.")
@click.option("--capture", default="usernet-demo.pcapng", show_default=True, metavar="FILE", help="The capture's.")
@click.option("--tap", is_flag=True, help="The kernel on the other end of a TAP device: needs root, or CAP_NET_ADMIN.")
@click.option("--plain", "--no-color", is_flag=True, help="No colours, nothing that moves: as in a file or pipe.")
def demo(
    size: int, seed: int, delay: float, loss: float, rate: float, capture: str, tap: bool, plain: bool
) -> None:
    """Two hosts, a lossy cable, a file fetched by HTTP: every step shown.

    On virtual time, without privilege. Writes a capture, and verifies the file.
    """
    from usernet.cli.demo import Settings, run
    from usernet.cli.stage import Stage

    if size < 1:
        raise click.BadParameter("expected at least 1 byte", param_hint="--size")
    settings = Settings(size, seed, delay, loss, rate, capture)
    try:
        status = run(Stage(True if plain else None), settings, tap)
    except ModuleNotFoundError as missing:
        if missing.name != "pyroute2":
            raise
        text = "--tap sets up the host's device by pyroute2: pip install 'usernet[netlink]'"
        raise click.ClickException(text) from None
    except OSError as problem:
        where = f"--capture {capture}: " if problem.filename == capture else "--tap: " if tap else ""
        raise click.ClickException(f"{where}{problem.strerror or problem}") from None
    sys.exit(status)


TOOLS: Final = {
    "ip": """Addresses, devices, routes and neighbours, as ip(8).

    \b
    ip [-j] [-p] [-s] [-br] addr|link|route|neigh [show|add|del|replace|set|get|flush] …
    """,
    "ss": """Sockets, as ss(8).

    \b
    ss [-tuw] [-l|-a] [-n] [-i] [-m] [-o] [-p] [-s] [-H] [-j]
    """,
    "ping": """Echo requests, as ping(8), until interrupted or -c.

    \b
    ping [-c COUNT] [-i SECONDS] [-s BYTES] [-W SECONDS] [-w SECONDS] [-t TTL] [-nq] HOST
    """,
    "traceroute": """The routers on the way, as traceroute(8).

    \b
    traceroute [-In] [-f FIRST] [-m HOPS] [-q PROBES] [-w SECONDS] [-p PORT] HOST
    """,
    "tcpdump": """Packets, of a capture file or as they pass, as tcpdump(8).

    \b
    tcpdump [-neSv] [-t|-tt|-ttttt] [-c COUNT] [-i DEVICE] [-r FILE | -w FILE] [FILTER]
    """,
    "nc": """Bytes between a connection and standard input and output, as nc(1).

    \b
    nc [-lnuvzN] [-p PORT] [-s ADDRESS] [-w SECONDS] [HOST] [PORT]
    """,
    "sysctl": """Settings, as sysctl(8).

    \b
    sysctl [-anwj] [NAME[=VALUE]…]
    """,
    "nstat": """Counters, as nstat(8).

    \b
    nstat [-zdj] [PATTERN…]
    """,
}
"""The tools, each with its help."""

FOREVER: Final = str(1 << 62)


def run_tool(tool: str, options: StackOptions, args: tuple[str, ...]) -> int:
    """Run a tool on a stack made for it, or on none where it reads a capture; returns its exit status."""
    function = getattr(tools, tool)
    try:
        if tool == "tcpdump" and _reads_capture(args):
            text = function(None, *args, out=click.echo)
        elif options.only_named():
            text = _run_served(tool, options.stack, args)
        else:
            with options.open(tool) as stack:
                if tool == "ping":
                    text = function(stack, "-c", FOREVER, *args, out=click.echo)
                elif tool in ("traceroute", "tcpdump"):
                    text = function(stack, *args, out=click.echo)
                elif tool == "nc":
                    streams = {"input": sys.stdin.buffer, "output": sys.stdout.buffer}
                    text = function(stack, *args, **streams, out=lambda line: click.echo(line, err=True))
                else:
                    text = function(stack, *args)
                    if text:
                        click.echo(text)
    except tools.UsageError as problem:
        raise click.UsageError(f"{tool}: {str(problem).removeprefix(f'{tool}: ')}") from None
    except OSError as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        what = f"{problem.filename}: " if problem.filename else ""
        raise click.ClickException(f"{tool}: {what}{problem.strerror or problem}") from None
    except KeyboardInterrupt:
        return 130
    status: int = text.status
    return status


def _run_served(tool: str, stack: str, args: tuple[str, ...]) -> Any:
    """Run a tool on the stack of a service."""
    from usernet.cli import served

    with _client(stack) as client:
        if tool == "ping":
            return served.run(client, tool, ("-c", FOREVER, *args), out=click.echo)
        if tool in ("traceroute", "tcpdump"):
            return served.run(client, tool, args, out=click.echo)
        if tool == "nc":
            return served.run(
                client, tool, args, input=sys.stdin.buffer, output=sys.stdout.buffer,
                out=lambda line: click.echo(line, err=True),
            )  # fmt: skip
        text = served.run(client, tool, args)
        if text:
            click.echo(text)
        return text


def _client(stack: str) -> Any:
    """A client of the service of that stack."""
    try:
        from usernet.netd.client import Client
    except ModuleNotFoundError as missing:
        if missing.name != "msgspec":
            raise
        raise click.ClickException("--stack needs msgspec: pip install 'usernet[netd]'") from None
    try:
        return Client(stack)
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--stack") from None
    except OSError as problem:
        raise click.ClickException(str(problem.strerror or problem)) from None


def _reads_capture(args: tuple[str, ...]) -> bool:
    """Whether -r is among tcpdump's options, alone or behind others: `-r FILE`, `-nr FILE`, `-rFILE`. What is behind
    -w, -i, -c and -s is their own."""
    return any(re.match(r"-[^-wics]*r", arg) for arg in args)


def _add_tool(tool: str, about: str) -> None:
    settings: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": ["--help"]}

    @cli.command(tool, help=about, context_settings=settings)
    @stack_options
    @click.argument("args", nargs=-1, type=click.UNPROCESSED)
    def command(options: StackOptions, args: tuple[str, ...]) -> None:
        sys.exit(run_tool(tool, options, args))


for _tool, _about in TOOLS.items():
    _add_tool(_tool, _about)


@cli.command()
@stack_options
@click.option("--config", "-c", "path", type=click.Path(), default=None, metavar="FILE",
              help="The configuration; by default usernet.toml, where there is one.")
@click.option("--check", is_flag=True, help="Only check the configuration.")
def up(options: StackOptions, path: str | None, check: bool) -> None:
    """Run stacks as a service, until SIGTERM or Ctrl-C.

    What they are is said by a configuration, or for one stack by options; --stack gives it a name. Programs and tools
    then use it by that name: `usernet ip --stack NAME addr`.
    """
    from usernet.cli.up import bring_up

    sys.exit(bring_up(options, path, check))


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@stack_options
@click.option("-m", "module", default="", metavar="MODULE", help="Run a module, as python -m does.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]…")
def python(options: StackOptions, module: str, args: tuple[str, ...]) -> None:
    """Run a Python program on a stack: its `socket` is the stack's, in every thread.

    Options of the stack go before SCRIPT; what follows is the program's own.
    """
    from usernet.cli.python import run_program

    if not module and not args:
        raise click.BadParameter("expected a file, or -m MODULE", param_hint="SCRIPT")
    if not module and not os.path.exists(args[0]):
        raise click.BadParameter(f"expected a file, and there is no {args[0]}", param_hint="SCRIPT")
    if options.only_named():
        raise click.BadParameter("the stack of a service is another process's; use `usernet run`", param_hint="--stack")
    run_program(options, module, args)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--exact", is_flag=True, help="No tolerance in time.")
@click.option("-v", "--verbose", is_flag=True, help="Show what goes by.")
@click.option("-D", "--define", "defines", multiple=True, metavar="NAME=VALUE", help="Replace a symbol.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--OPTION=VALUE]… FILE…")
def packetdrill(exact: bool, verbose: bool, defines: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Run conformance scripts on virtual time.

    FILE is a script, or a directory of *.pkt. Closes with `N passed, N failed`; status 1 where one failed, 2 where one
    is no script. packetdrill's own options (--tolerance_usecs=14000, --mtu=1400) go before what a script says.
    """
    from usernet.packetdrill.command import main as run_scripts

    files = [word for word in words if not word.startswith("-")]
    overrides: dict[str, str | None] = {}
    for word in words:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            overrides[name] = value if sign else None
        elif word.startswith("-"):
            raise click.NoSuchOption(word)
    if not files:
        raise click.BadParameter("expected a script or a directory of scripts", param_hint="FILE")
    symbols: dict[str, str] = {}
    for word in defines:
        name, sign, value = word.partition("=")
        if not name or not sign:
            raise click.BadParameter(f"expected NAME=VALUE, not {word!r}", param_hint="--define")
        symbols[name] = value
    try:
        sys.exit(run_scripts(files, exact=exact, verbose=verbose, overrides=overrides, defines=symbols))
    except FileNotFoundError as problem:
        raise click.BadParameter(f"expected a file or directory, and there is no {problem.filename}") from None
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@stack_options
@click.option("--own", is_flag=True, help="A stack of its own, though a service runs.")
@click.option("--nameserver", "nameservers", type=params.ADDRESS, multiple=True, metavar="ADDRESS",
              help="Whom the command asks for names. May be repeated.")
@click.option("--add-host", "hosts", type=params.HOST, multiple=True, metavar="NAME=ADDRESS",
              help="A name for the command's /etc/hosts. May be repeated.")
@click.option("--io-uring", is_flag=True, help="Let io_uring through: what it does with sockets is not seen.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is not supported, when it is asked for.")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARGS]…")
def run(
    options: StackOptions, own: bool, nameservers: tuple[str, ...], hosts: tuple[tuple[str, str], ...],
    io_uring: bool, verbose: bool, argv: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a program, of any kind and unmodified, on a stack: it and all that it starts.

    The stack is that of a running service (--stack, or the default one where it runs), or one of its own: joined to the
    host by --tap or --tun, else to a small host of its own: try `curl http://host.usernet/`. No privilege is needed for
    that. Options go before COMMAND; what follows is the command's own.
    """
    from usernet.cli.run import RunOptions, run_command

    run_command(argv, options, RunOptions(own, verbose, nameservers, hosts, io_uring))


def main() -> int:
    """Run the command line that the process was started with. Ends by SystemExit; returns a status where the output is
    not wanted any more."""
    try:
        cli.main(prog_name="usernet", standalone_mode=True)
    except BrokenPipeError:
        # Whoever read the output has enough, as `head` does.
        sys.stderr.close()
        return 1
    return 0
