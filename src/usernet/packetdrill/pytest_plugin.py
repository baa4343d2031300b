"""pytest collects *.pkt: each script is a test, run on a stack of its own, on virtual time.

Load it with `pytest_plugins = ["usernet.packetdrill.pytest_plugin"]` in a conftest.py, or with
`-p usernet.packetdrill.pytest_plugin`. `--packetdrill-exact` runs them without tolerance in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from usernet.packetdrill.command import PASSED, SKIPPED, SUFFIX, run_file


class ScriptFailed(Exception):
    """A script did not pass; the text says why."""


class ScriptItem(pytest.Item):
    """One script."""

    def runtest(self) -> None:
        """Run it. Raises ScriptFailed."""
        outcome = run_file(str(self.path), exact=bool(self.config.getoption("--packetdrill-exact")))
        if outcome.log:
            self.add_report_section("call", "packetdrill", "\n".join(outcome.log))
        if outcome.status == SKIPPED:
            pytest.skip(outcome.message)
        if outcome.status != PASSED:
            raise ScriptFailed(outcome.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone: a traceback through the interpreter tells nothing about the script."""
        if isinstance(excinfo.value, ScriptFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it is, for the report."""
        return self.path, 0, self.name


class ScriptFile(pytest.File):
    """A file with one script."""

    def collect(self) -> Iterator[ScriptItem]:
        """Its one test."""
        yield ScriptItem.from_parent(self, name=self.path.stem)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's option."""
    parser.addoption("--packetdrill-exact", action="store_true", help="run *.pkt without tolerance in time")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> ScriptFile | None:
    """Collect scripts."""
    if file_path.suffix != SUFFIX:
        return None
    collected: ScriptFile = ScriptFile.from_parent(parent, path=file_path)
    return collected
