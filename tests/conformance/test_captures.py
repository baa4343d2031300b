"""The same script gives the same bytes at the same times, compiled and interpreted, and whatever hashes are made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import usernet
from usernet.core.compiled import COMPILED
from usernet.packetdrill.command import PASSED

PROGRAM = Path(__file__).with_name("captures.py")


def start(**environment: str) -> subprocess.Popen[str]:
    where = str(Path(usernet.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, str(PROGRAM)], env={**os.environ, "PYTHONPATH": where, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    return out.splitlines()


def test_captures_are_the_same_to_the_byte() -> None:
    runs = [start(USERNET_PURE="1", PYTHONHASHSEED="1"), start(USERNET_PURE="0", PYTHONHASHSEED="2")]
    (first, *pure), (second, *other) = [lines(run) for run in runs]
    assert first == "interpreted" and second == ("compiled" if COMPILED else "interpreted")
    assert len(pure) > 150
    assert all(line.split()[1] == str(PASSED) for line in pure)
    assert [(one, two) for one, two in zip(pure, other, strict=True) if one != two] == []
