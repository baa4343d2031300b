"""`usernet packetdrill FILE…`: run scripts, say what became of each, and how many passed and failed.

A script that needs what the stack does not have at all (`--ip_version=ipv6`) is skipped, with the reason: it says
nothing about the stack, good or bad.

Library code without a command line: the `usernet` command gives it its arguments, and pytest's plugin a single script.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Final, TextIO, final

from usernet.packetdrill.config import IPV4, configure, default_defines
from usernet.packetdrill.errors import ScriptError, ScriptFailure
from usernet.packetdrill.parser import parse_file
from usernet.packetdrill.runner import Runner
from usernet.packetdrill.stack_target import StackTarget

SUFFIX: Final = ".pkt"
SKIPPED: Final = -1
PASSED: Final = 0
FAILED: Final = 1
MALFORMED: Final = 2


@final
class Outcome:
    """What became of one script.

    `status`: PASSED, FAILED, SKIPPED where the stack lacks what it is about, or MALFORMED for what is no script.
    `message`: why, over several lines, empty where it passed. `log`: what went by. `warnings`: what --non_fatal let
    pass.
    """

    __slots__ = ("log", "message", "path", "status", "warnings")

    def __init__(self, path: str, status: int, message: str, log: list[str], warnings: list[str]) -> None:
        self.path = path
        self.status = status
        self.message = message
        self.log = log
        self.warnings = warnings


def run_file(
    path: str,
    *,
    exact: bool = False,
    ip_version: str = IPV4,
    overrides: Mapping[str, str | None] | None = None,
    defines: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one script on a stack of its own.

    Args:
        path: the script.
        exact: no tolerance in time.
        ip_version: config.IP_VERSIONS, unless the script says.
        overrides: packetdrill's options by name, which go before the script's own.
        defines: symbols to replace, beside those that the public corpora count on.

    Raises:
        ValueError: an option of `overrides` that is none. OSError: the file can't be read.
    """
    runner: Runner | None = None
    try:
        script = parse_file(path, {**default_defines(ip_version), **(defines or {})})
        config = configure(script.options, script.path, script.text, ip_version, overrides)
        if exact:
            config.set_exact()
        runner = Runner(script, config, StackTarget())
        try:
            runner.run()
        except OSError as missing:
            status = SKIPPED if missing.errno == errno.EAFNOSUPPORT else FAILED
            return Outcome(path, status, f"{path}: {missing.strerror or missing}", runner.log, runner.warnings)
    except ScriptError as bad:
        return Outcome(path, MALFORMED, bad.report(), runner.log if runner else [], runner.warnings if runner else [])
    except ScriptFailure as failed:
        log, warnings = (runner.log, runner.warnings) if runner else ([], [])
        return Outcome(path, FAILED, str(failed), log, warnings)
    return Outcome(path, PASSED, "", runner.log, runner.warnings)


def find_scripts(paths: Iterable[str]) -> list[str]:
    """The scripts that are meant: files as given, and all *.pkt below directories, in order of their names.

    Raises FileNotFoundError for what is neither.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            for directory, names, files in os.walk(path):
                names.sort()
                found += [os.path.join(directory, name) for name in sorted(files) if name.endswith(SUFFIX)]
        elif os.path.exists(path):
            found.append(path)
        else:
            raise FileNotFoundError(2, "No such file or directory", path)
    return found


def main(
    paths: Iterable[str],
    exact: bool = False,
    verbose: bool = False,
    ip_version: str = IPV4,
    overrides: Mapping[str, str | None] | None = None,
    defines: Mapping[str, str] | None = None,
    out: TextIO | None = None,
) -> int:
    """Run scripts one after the other; writes a line for each, and last `N passed, N failed`, with `, N skipped` if so.

    Args:
        paths: scripts, and directories of scripts.
        exact, ip_version, overrides, defines: as `run_file` has them.
        verbose: also show what went by, one line an event or packet.
        out: where to write, by default standard output.

    Returns:
        0 where all passed, 1 where one failed, 2 where one is no script.
    """
    stream = out if out is not None else sys.stdout
    passed = failed = skipped = 0
    status = PASSED
    for path in find_scripts(paths):
        outcome = run_file(path, exact=exact, ip_version=ip_version, overrides=overrides, defines=defines)
        if verbose:
            stream.writelines(f"  {line}\n" for line in outcome.log)
        stream.writelines(f"warning: {line}\n" for line in outcome.warnings)
        if outcome.status == PASSED:
            passed += 1
            stream.write(f"OK   [{path}]\n")
        elif outcome.status == SKIPPED:
            skipped += 1
            stream.write(f"{outcome.message}\nSKIP [{path}]\n")
        else:
            failed += 1
            stream.write(f"{outcome.message}\nFAIL [{path}]\n")
        status = max(status, outcome.status)
    stream.write(f"{passed} passed, {failed} failed" + (f", {skipped} skipped\n" if skipped else "\n"))
    return status
