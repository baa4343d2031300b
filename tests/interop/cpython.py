"""CPython's own tests of sockets under `usernet run`, beside the same on the kernel's sockets of this machine:

    python -m tests.interop.cpython [--python PYTHON] [--write docs/cpython-tests.md] [SUITE ...]

A test that passes on the kernel's sockets must pass here, but for those that `DIFFERENCES` and `SKIPS` give a reason
for. Others are printed, and make the exit status 1. The interpreter needs the package `test` (on Debian:
libpython3.11-testsuite). A suite that fails is given a second try, by which a test may have passed too: some are of
time, on a machine that others use.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

SUITES = (
    "test_socket", "test_select", "test_selectors", "test_poll", "test_epoll", "test_asyncio", "test_ssl",
    "test_httplib", "test_ftplib", "test_smtplib", "test_socketserver", "test_xmlrpc",
)  # fmt: skip
ARGUMENTS = ("-m", "test", "-v", "-u", "network", "-i", "*VSOCK*")
PATIENCE = 1800

DIFFERENCES = {
    "test_epoll.TestEPoll.test_control_and_wait": "what one end writes can be read at the other end a moment later, "
    "not as soon as the write returns: the stack runs beside the program",
    "test_ssl.TestPreHandshakeClose.test_preauth_data_to_tls_server": "the other end's reset shows a moment later, and "
    "the socket counts as connected until then",
    "test_socket.SendfileUsingSendTest.testWithTimeoutTriggeredSend": "10 MiB written without a reader find room: "
    "besides SO_SNDBUF and SO_RCVBUF a connection has the buffers of two descriptors",
    "test_asyncio.test_sock_lowlevel.*.test_sock_client_connect_racing": "after a connect that was refused the "
    "descriptor is another file, of which epoll has to be told anew",
    "test_asyncio.*.test_sendfile_*close_peer_in_the_middle_of_receiving": "the 160 KiB that are to be cut short find "
    "room in the buffers of two descriptors before the peer closes",
}
"""By suite, class and test, or a pattern of that: why it doesn't pass here."""

SKIPS = (
    (re.compile(r"IPv6|ipv6"), "needs IPv6, which the stack doesn't have yet"),
)  # fmt: skip
"""What a test that skips itself here says, and why that is so."""

_TEST = re.compile(r"^(\w+) \(test\.([\w.]+)\)(.*)$")
_OUTCOME = re.compile(r"(ok|ERROR|FAIL|skipped .*|expected failure|unexpected success)$")


class Difference(NamedTuple):
    """A test that passes on the kernel's sockets and not here. reason: "" for none that is known."""

    name: str
    outcome: str
    reason: str


def outcomes(log: Iterable[str]) -> dict[str, str]:
    """Of each test in the output of `python -m test -v`, by suite, class and test: ok, skipped …, FAIL, ERROR."""
    found: dict[str, str] = {}
    name = ""
    for line in log:
        match = _TEST.match(line)
        if match is not None:
            name = match[2] if match[2].endswith(f".{match[1]}") else f"{match[2]}.{match[1]}"
            line = match[3]
        outcome = _OUTCOME.search(line.rstrip())
        # What a test writes may stand between its name and its outcome.
        if name and outcome is not None:
            found.setdefault(name, outcome[1])
            name = ""
    return found


def differences(kernel: dict[str, str], here: dict[str, str]) -> list[Difference]:
    """Which tests pass on the kernel's sockets alone."""
    found = []
    for name, outcome in kernel.items():
        ours = here.get(name, "missing")
        if outcome == "ok" and ours != "ok":
            reason = next((why for pattern, why in DIFFERENCES.items() if fnmatchcase(name, pattern)), "")
            if ours.startswith("skipped"):
                reason = next((why for pattern, why in SKIPS if pattern.search(ours)), reason)
            found.append(Difference(name, ours, reason))
    return found


def run(command: Sequence[str]) -> dict[str, str]:
    """Run a suite with its output read."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    return outcomes(done.stdout.splitlines())


def under_usernet(python: str, suite: str, *more: str) -> list[str]:
    """The command that runs a suite under `usernet run`."""
    return [sys.executable, "-m", "usernet.cli.main", "run", "--", python, *ARGUMENTS, *more, suite]


def compare(python: str, suite: str) -> tuple[dict[str, str], dict[str, str]]:
    """The outcomes of a suite on the kernel's sockets, and here."""
    kernel = run([python, *ARGUMENTS, suite])
    here = run(under_usernet(python, suite))
    if any(not entry.reason for entry in differences(kernel, here)):
        again = run(under_usernet(python, suite))
        here |= {name: outcome for name, outcome in again.items() if outcome == "ok" or name not in here}
    return kernel, here


def page(results: dict[str, tuple[dict[str, str], dict[str, str]]], version: str) -> str:
    """docs/cpython-tests.md."""
    rows = []
    entries: list[Difference] = []
    total = [0, 0]
    for suite, (kernel, here) in results.items():
        passed = [sum(outcome == "ok" for outcome in side.values()) for side in (kernel, here)]
        found = differences(kernel, here)
        entries += found
        total = [have + more for have, more in zip(total, passed, strict=True)]
        rows.append(f"| `{suite}` | {passed[0]} | {passed[1]} | {len(found)} |")
    rows.append(f"| all | {total[0]} | {total[1]} | {len(entries)} |")
    alone = [entry for entry in entries if not entry.outcome.startswith("skipped")]
    classes = Counter((entry.name.rpartition(".")[0], entry.reason) for entry in entries if entry not in alone)
    lines = [f"| `{name}` | {count} skipped | {reason} |" for (name, reason), count in classes.items()]
    lines += [f"| `{entry.name}` | {entry.outcome} | {entry.reason or '**unexplained**'} |" for entry in alone]
    seen = {entry.name for entry in alone}
    lines += [
        f"| `{pattern}` | in some runs | {reason} |"
        for pattern, reason in DIFFERENCES.items()
        if pattern.partition(".")[0] in results and not any(fnmatchcase(name, pattern) for name in seen)
    ]
    return TEXT.format(version=version, rows="\n".join(rows), lines="\n".join(lines))


TEXT = """# CPython's own tests

The standard library's tests of sockets and of what stands on them, unmodified, by CPython {version}, once on the
kernel's sockets and once under `usernet run`, on the same machine:

```sh
python -m tests.interop.cpython --write docs/cpython-tests.md
```

which runs `python3 -m test -u network -i '*VSOCK*' SUITE` for each suite both ways, and fails where a test passes on
the kernel's sockets alone with no reason known. (`tests.posix.cpython` runs `test_socket` on `usernet.socket` in one
process; see [sockets](sockets.md#the-drop-in-module).)

| suite | pass on the kernel's sockets | pass under `usernet run` | differ |
| --- | --- | --- | --- |
{rows}

Those that differ:

| tests | here | reason |
| --- | --- | --- |
{lines}
"""


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("suites", nargs="*", default=SUITES)
    arguments = parser.parse_args()
    results = {}
    unexplained = 0
    for suite in arguments.suites:
        kernel, here = results[suite] = compare(arguments.python, suite)
        found = differences(kernel, here)
        print(f"{suite}: {sum(outcome == 'ok' for outcome in here.values())} pass, {len(found)} differ", flush=True)
        for entry in found:
            if not entry.reason:
                unexplained += 1
                print(f"  {entry.name}: {entry.outcome}", flush=True)
    if arguments.write is not None:
        version = subprocess.run([arguments.python, "-V"], capture_output=True, text=True, check=True).stdout
        arguments.write.write_text(page(results, version.split()[-1]))
    return 1 if unexplained else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    raise SystemExit(main())
