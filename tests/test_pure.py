"""USERNET_PURE=1: source files run, whatever stands beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import usernet

PACKAGE = Path(usernet.__file__).parent


def run(code: str, where: Path, pure: str) -> str:
    environment = {**os.environ, "USERNET_PURE": pure, "PYTHONPATH": str(where)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_extension_module_is_loaded_and_a_stack_is_there() -> None:
    code = (
        "import sys, usernet; usernet.Stack('one'); from usernet.core.compiled import COMPILED; "
        "print(COMPILED, sorted(name for name, module in sys.modules.items() if name.startswith('usernet.') "
        "and not module.__spec__.origin.endswith('.py')))"
    )
    assert run(code, PACKAGE.parent, "1") == "False []"


@pytest.mark.parametrize(("pure", "answer"), [("1", "source"), ("0", "extension"), ("", "extension")])
def test_an_extension_module_is_passed_over(tmp_path: Path, pure: str, answer: str) -> None:
    home = tmp_path / "usernet"
    shutil.copytree(PACKAGE / "core", home / "core", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(PACKAGE / "__init__.py", home)
    (home / "core" / "probe.py").write_text("KIND = 'source'\n")
    # Not a shared library: who tries it fails, and says so.
    suffix = next(iter(__import__("importlib.machinery").machinery.EXTENSION_SUFFIXES))
    (home / "core" / f"probe{suffix}").write_bytes(b"no library")
    code = (
        "try:\n    from usernet.core.probe import KIND\nexcept ImportError:\n    KIND = 'extension'\nprint(KIND)"
    )
    assert run(code, tmp_path, pure) == answer
