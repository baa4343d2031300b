"""`usernet run` as people call it: the command line in a process of its own, as this user or without privilege."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support import unprivileged

USERNET = ("-m", "usernet.cli.main")


def run(*words: str, seconds: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """`usernet run WORDS…` to its end. No service is found, for there is none in this directory."""
    options["env"] = {**os.environ, "USERNET_RUNTIME_DIR": "/nonexistent", **options.get("env", {})}
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": seconds, "check": False, **options}
    return subprocess.run([sys.executable, *USERNET, "run", *words], **settings)


def python(code: str, *options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A Python program under `usernet run`."""
    return run(*options, "--", sys.executable, "-c", code, **settings)


def run_unprivileged(*words: str, seconds: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same as somebody without any privilege."""
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": seconds, "check": False, **options}
    argv = unprivileged.command(*USERNET, "run", *words)
    environment = unprivileged.environment() | {"USERNET_RUNTIME_DIR": "/nonexistent"}
    return subprocess.run(argv, env=environment, cwd="/", **settings)


@pytest.fixture(name="supervised", scope="session")
def _supervised() -> None:
    """Skip where this kernel has no seccomp user notification, or it may not be used."""
    done = run("--", "true")
    if done.returncode == 125:
        pytest.skip(done.stderr.strip())


requires_supervisor = pytest.mark.usefixtures("supervised")
