"""docs/run.md says what is so: what is not supported fails with the errno that stands there, and --verbose tells of it;
the options are those of the command."""

from __future__ import annotations

import re
from pathlib import Path

from tests.netd.supervisor.running import python, requires_supervisor, run

PAGE = (Path(__file__).parents[3] / "docs" / "run.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| (E[A-Z0-9]+) \|", PAGE.partition("## What is not supported")[2], re.MULTILINE)

PROGRAM = """
import ctypes, errno, os, sys
from socket import *
libc = ctypes.CDLL(None, use_errno=True)

def syscall(*words):
    if libc.syscall(*map(ctypes.c_long, words)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

tcp = socket()
tcp.connect(("host.usernet", 7))
packet = socket(AF_PACKET, SOCK_RAW)
for line in sys.stdin:
    try:
        eval(line)
        print("nothing")
    except OSError as problem:
        print(errno.errorcode[problem.errno].replace("ENOTSUP", "EOPNOTSUPP"))
"""


@requires_supervisor
def test_what_is_not_supported_fails_as_it_says():
    assert len(ROWS) > 10
    done = python(PROGRAM, "--verbose", input="".join(f"{asked}\n" for asked, _ in ROWS))
    assert done.returncode == 0, done.stderr
    assert list(zip([asked for asked, _ in ROWS], done.stdout.split(), strict=True)) == ROWS
    for line in ("socket(10, ", "socket(16, ", "setsockopt(level 0, option 64): ENOPROTOOPT"):
        assert line in done.stderr


def test_the_options():
    told = run("--help").stdout
    for option in re.findall(r"`(--[a-z-]+)`", PAGE):
        assert option in told, option
    for option in re.findall(r"(--[a-z-]+)", told):
        assert f"`{option}`" in PAGE or option == "--help", option


@requires_supervisor
def test_a_command_within_a_command():
    import sys

    done = run("--", sys.executable, "-m", "usernet.cli.main", "run", "--", "true")
    assert done.returncode == 125
    assert "Device or resource busy" in done.stderr
