"""docs/rfc.md lists every requirement of RFC 9293's appendix B, once, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "rfc.md").read_text()
ROW = re.compile(r"^\| ((?:MUST|SHLD|MAY|REC)-\d+) \| ([\d.]+) \| (.+?) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"[\w/]+\.py(?:::\w+)*")
SCRIPT = re.compile(r"\w+\.pkt")
WITHOUT_A_TEST = ("not applicable: ", "not taken up", "departs: ")


@cache
def defined(path: Path) -> dict[str, set[str]]:
    """The classes of a test file with their functions; the file's own under ""."""
    found: dict[str, set[str]] = {"": set()}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[""].add(node.name)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            found[""] |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_every_requirement_is_listed_once() -> None:
    expected = [f"{kind}-{number}" for kind, last in (("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1))
                for number in range(1, last + 1)]  # fmt: skip
    listed = [name for name, *_ in ROW.findall(PAGE)]
    assert sorted(listed) == sorted(expected)


def test_every_requirement_has_a_test_or_a_reason() -> None:
    for name, _, what, shown in ROW.findall(PAGE):
        assert what.strip(), name
        assert NAMED.search(shown) or SCRIPT.search(shown) or shown.startswith(WITHOUT_A_TEST), name


def test_what_is_named_exists() -> None:
    for name in set(SCRIPT.findall(PAGE)):
        assert (TESTS / "conformance" / name).is_file(), name
    for name in set(NAMED.findall(PAGE)):
        path, *parts = name.split("::")
        if path.startswith("src/"):
            assert (TESTS.parent / path).is_file(), name
            continue
        if not parts and (TESTS.parent / "src" / "usernet" / "transport" / "tcp" / path).is_file():
            continue
        assert (TESTS / path).is_file(), name
        if parts:
            owner, function = parts if len(parts) == 2 else ("", parts[0])
            found = defined(TESTS / path)
            assert function in found.get(owner, ()) or (not owner and function in found), name
