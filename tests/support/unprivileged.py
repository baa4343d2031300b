"""Programs run as somebody without any privilege, by tests that root runs; by anyone else they are run as they are.

The interpreter of the tests may lie where nobody else may look, so another one that has what usernet needs may serve.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

UID: Final = 65534 if os.geteuid() == 0 else os.geteuid()
ROOT: Final = Path(__file__).resolve().parents[2]


def _paths() -> list[str]:
    """Where usernet and what it needs are."""
    import click

    return [str(ROOT / "src"), str(ROOT), str(Path(click.__file__).parents[1])]


def environment() -> dict[str, str]:
    """The environment for such a program."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(_paths()), "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}


@functools.cache
def _interpreter() -> str:
    for python in (sys.executable, "/usr/bin/python3"):
        code = "import click, rich, dns.message, usernet.cli.app, sys; assert sys.version_info >= (3, 11)"
        try:
            done = subprocess.run(
                [*drop(), python, "-c", code], env=environment(), cwd="/", capture_output=True, timeout=30
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return ""


def drop() -> list[str]:
    """The words before a command that is to have no privilege."""
    if os.geteuid() != 0:
        return []
    identity = (f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    # setpriv itself still has them when it executes something.
    return ["setpriv", *identity, "--bounding-set=-all", "--inh-caps=-all", "sh", "-c", 'exec "$0" "$@"']


def command(*args: str) -> list[str]:
    """A Python program as somebody without privilege, the arguments after the interpreter's name."""
    return [*drop(), *interpreter(*args)]


def interpreter(*args: str) -> list[str]:
    """The same, for one who has none already."""
    return [_interpreter(), *args]


@pytest.fixture(name="unprivileged", scope="session")
def _unprivileged() -> None:
    """Skip where it can't be."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("needs the program setpriv (Debian: util-linux)")
    if not _interpreter():
        pytest.skip("no interpreter that somebody without privilege may execute has what usernet needs")


requires_unprivileged: Final = pytest.mark.usefixtures("unprivileged")
