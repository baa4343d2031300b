"""The programs in examples/: each runs as it is, without a warning, and prints what it is about."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

SAYS = {
    "asyncio_echo.py": r"(HELLO FROM CLIENT \d+\n){20}",
    "lossy_download.py": r"loss +cubic +bbr\n *0% +0\.4\d s .*\n *1% .*\n *5% .*\n *10% .*\n",
    "router.py": r"(?s).*1  10\.0\.0\.2: time exceeded\n  2  10\.0\.1\.2: port unreachable\n.*TTL 1, 41 bytes\n.*",
    "tunnel.py": r"1000000 bytes came through the tunnel from 10\.8\.0\.1\n",
}


TESTS = ["partition.py"]


def test_each_is_known():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted([*SAYS, *TESTS])
    page = (EXAMPLES.parent / "README.md").read_text()
    for name in [*SAYS, *TESTS]:
        assert f"(examples/{name})" in page, f"README does not name {name}"


@pytest.mark.parametrize("name", sorted(SAYS))
def test_it_runs(name: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(SAYS[name], done.stdout), done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TESTS)
def test_it_passes(name: str, tmp_path: Path):
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", str(EXAMPLES / name)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
