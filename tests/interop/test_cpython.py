"""CPython's own tests under `usernet run`: how outcomes are read and compared, and two of the short suites."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.interop import cpython
from tests.netd.supervisor.test_seccomp import pytestmark as possible

PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).parents[2]


def has_tests() -> bool:
    if not os.path.exists(PYTHON):
        return False
    asked = "import test.test_epoll, test.test_socketserver"
    return subprocess.run([PYTHON, "-c", asked], capture_output=True, check=False).returncode == 0


def test_outcomes_are_read():
    log = """\
test_a (test.test_x.Class.test_a) ... ok
test_b (test.test_x.Class) ... some words
more words
ERROR
test_c (test.test_x.Class.test_c) ... skipped 'IPv6 required for this test.'
test_d (test.test_x.Class.test_d) ... Warning: ok
ERROR: test_b (test.test_x.Class)
"""
    found = cpython.outcomes(log.splitlines())
    assert found == {
        "test_x.Class.test_a": "ok",
        "test_x.Class.test_b": "ERROR",
        "test_x.Class.test_c": "skipped 'IPv6 required for this test.'",
        "test_x.Class.test_d": "ok",
    }


def test_differences_have_reasons_or_none():
    known = "test_epoll.TestEPoll.test_control_and_wait"
    kernel = dict.fromkeys(("test_x.C.one", "test_x.C.two", "test_x.C.six", known), "ok")
    here = {"test_x.C.one": "ok", "test_x.C.six": "skipped 'no IPv6 support'", known: "FAIL"}
    found = {entry.name: (entry.outcome, bool(entry.reason)) for entry in cpython.differences(kernel, here)}
    assert found == {
        "test_x.C.two": ("missing", False),
        "test_x.C.six": ("skipped 'no IPv6 support'", True),
        known: ("FAIL", True),
    }
    text = cpython.page({"test_x": (kernel, here)}, "3.11.2")
    assert "| `test_x` | 4 | 1 | 3 |" in text
    assert "**unexplained**" in text


@possible
@pytest.mark.skipif(not has_tests(), reason="the interpreter has no package test (libpython3.11-testsuite)")
@pytest.mark.parametrize("suite", ["test_epoll", "test_select", "test_socketserver"])
def test_a_suite(suite: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    found = cpython.run(cpython.under_usernet(PYTHON, suite))
    assert sum(outcome == "ok" for outcome in found.values()) >= 5
    for entry in cpython.differences(dict.fromkeys(found, "ok"), found):
        assert entry.reason or entry.outcome.startswith("skipped"), entry
