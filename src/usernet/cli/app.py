"""The command `usernet` and its subcommands."""

from __future__ import annotations

import sys

import click

from usernet import __version__
from usernet.cli import params


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", "-V", prog_name="usernet", message="%(prog)s %(version)s")
def cli() -> None:
    """A network stack in user space: the demo, the tools, programs on a stack."""


@cli.command()
@click.option("--size", type=params.SIZE, default="4M", show_default=True, help="Of the file: 4M, 200k.")
@click.option("--seed", type=int, default=7, show_default=True, help="Of all chance. One seed: the same packets.")
@click.option("--delay", type=params.TIME, default="10ms", show_default=True, help="Of the cable, one way.")
@click.option("--loss", type=params.FRACTION, default="1%", show_default=True, help="Fraction of packets lost.")
@click.option("--rate", type=params.RATE, default="50mbit", show_default=True, help="Of the cable; 0: no limit.")
@click.option("--capture", default="usernet-demo.pcapng", show_default=True, metavar="FILE", help="Where to capture to.")
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
        raise click.ClickException("--tap sets up the host's device by pyroute2: pip install 'usernet[netlink]'") from None
    except OSError as problem:
        where = f"--capture {capture}: " if problem.filename == capture else "--tap: " if tap else ""
        raise click.ClickException(f"{where}{problem.strerror or problem}") from None
    sys.exit(status)


def run() -> int:
    """Run the command line that the process was started with; returns the exit status."""
    try:
        cli.main(prog_name="usernet", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:
        # Whoever read the output has enough, as `head` does.
        sys.stderr.close()
        return 1
    return 0
