"""The project as a whole keeps its word: licence, packaging, make targets, what importing it costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "usernet"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def contract(name: str) -> dict[str, Any]:
    (found,) = (entry for entry in pyproject()["tool"]["importlinter"]["contracts"] if entry["id"] == name)
    return dict(found)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_licence_is_the_apache_licence_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject()["project"]["license"] == "Apache-2.0"


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()
    assert pyproject()["tool"]["setuptools"]["package-data"]["usernet"] == ["py.typed"]


def test_the_library_has_no_dependency_and_all_has_every_extra_of_a_user() -> None:
    project = pyproject()["project"]
    assert project["dependencies"] == []
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.fullmatch(r"usernet\[(.*)\]", everything).group(1).split(","))  # type: ignore[union-attr]
    assert named == set(extras) - {"all", "test", "lint", "fuzz"}


def test_installing_gives_the_command() -> None:
    (script,) = (entry for entry in distribution("usernet").entry_points if entry.group == "console_scripts")
    assert (script.name, script.value) == ("usernet", "usernet.cli.main:main")


def test_each_make_command_in_a_document_is_a_target() -> None:
    named = set()
    for document in (ROOT / "README.md", ROOT / ".ci" / "run", *(ROOT / "docs").glob("*.md")):
        named |= set(re.findall(r"(?:^|`|\$ )make ([a-z][a-z-]*)", document.read_text(), re.MULTILINE))
    assert named >= {"test", "compiled"}
    assert named <= make_targets()


def test_ci_tests_the_compiled_floors_then_runs_the_lint_and_exactly_the_documented_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    (listed,) = re.findall(r"^ *floors=\((.*)\)$", script, re.MULTILINE)
    assert listed.split() and all(any((ROOT / "tests" / name).rglob("test_*.py")) for name in listed.split())
    assert 'make test-compiled TESTS="${floors[*]/#/tests/}"\n' in script
    assert script.rstrip().endswith("make lint\nmake test")


def test_every_floor_is_in_the_layer_contract() -> None:
    listed = set(re.findall(r"\((\w+)\)", " ".join(contract("floors")["layers"])))
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert parts - {"__init__", "__main__", "_version"} <= listed


def test_the_version_is_one() -> None:
    usernet = importlib.import_module("usernet")
    assert usernet.__version__ == pyproject()["project"]["version"]


def test_importing_usernet_loads_no_surface_and_no_dependency() -> None:
    command = "import sys, usernet; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout.split()
    dear = {"asyncio", "numpy", "pyroute2", "click", "rich", "dns", "socket", "selectors", "threading"}
    ours = {name for name in loaded if name.startswith("usernet.")}
    assert dear.isdisjoint(loaded)
    assert not ours, "loaded when named (PEP 562), not before"


def test_a_stack_loads_only_what_every_stack_needs() -> None:
    command = "import sys, usernet; usernet.Stack('x'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout.split()
    dear = {
        "asyncio", "ctypes", "dataclasses", "hashlib", "hmac", "inspect", "ipaddress", "json", "logging", "select",
        "selectors", "signal", "socket", "subprocess", "traceback", "zlib",
    }  # fmt: skip
    assert not dear.intersection(loaded)
    later = (
        "runner", "netdevice.qdisc.fq", "netdevice.qdisc.tc", "sockets.netlink", "sockets.packet", "transport.ping",
        "transport.raw", "drivers.tuntap", "transport.tcp.congestion.cubic", "transport.tcp.sockopt",
        "transport.tcp.info", "transport.tcp.repair", "transport.tcp.fastopen_client", "transport.tcp.auth",
        "transport.tcp.ao", "transport.tcp.md5", "sock.options",
    )  # fmt: skip
    assert not {f"usernet.{name}" for name in later}.intersection(loaded)


def test_no_floor_imports_the_package_root() -> None:
    """The layer contract sees `usernet.ip`, not what the root re-exports: `from usernet import Stack` would slip by."""
    surfaces = {"cli", "packetdrill", "netd", "aio", "socket", "posix", "lab"}
    parts = {path.stem for path in SOURCE.iterdir()}
    wrong = []
    for path in python_files(SOURCE):
        if path.relative_to(SOURCE).parts[0].removesuffix(".py") in surfaces | {"__init__", "__main__"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import) and any(alias.name == "usernet" for alias in node.names):
                wrong.append(f"{name_of(path)}:{node.lineno}")
            elif isinstance(node, ast.ImportFrom) and node.module == "usernet":
                wrong += [f"{name_of(path)}:{node.lineno}" for alias in node.names if alias.name not in parts]
    assert wrong == []
