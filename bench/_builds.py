"""The two builds of the source that the benchmarks compare: where each is, and whether it is of this source."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
COMPILED = ROOT / "build" / "compiled" / "lib"
"""Where `make compiled` puts the extension modules, each beside a copy of its source."""

BUILDS = ("interpreted", "compiled")


def environment(name: str) -> dict[str, str]:
    """The environment in which Python imports the build `name`."""
    found = {**os.environ, "PYTHONPATH": str(COMPILED if name == "compiled" else SOURCE)}
    found.pop("USERNET_PURE", None)
    if name == "interpreted":
        found["USERNET_PURE"] = "1"
    return found


def why_not_compiled() -> str:
    """Why the compiled build can't be measured: it is not there, or was made of other sources. Empty where it can."""
    if not any(COMPILED.rglob("*" + sysconfig.get_config_var("EXT_SUFFIX"))):
        return "there is no compiled build (make compiled)"
    ours = {path.relative_to(SOURCE) for path in SOURCE.rglob("usernet/**/*.py")}
    theirs = {path.relative_to(COMPILED) for path in COMPILED.rglob("*.py")}
    other = sorted(
        path
        for path in ours | theirs
        if path not in ours & theirs or (SOURCE / path).read_bytes() != (COMPILED / path).read_bytes()
    )
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        return f"the compiled build is stale, {other[0]}{more} having changed since (make compiled)"
    return ""


def level() -> str:
    """How the C compiler was told to optimize what is in `COMPILED`: "-O2"."""
    for note in COMPILED.parent.glob("temp*/level"):
        return f"-O{note.read_text().strip()}"
    return "-O?"


def named(chosen: tuple[str, ...]) -> str:
    """The builds in words, and why the compiled one is not among them."""
    words = {"interpreted": "interpreted", "compiled": f"compiled (mypyc, {level()})"}
    text = " and ".join(words[name] for name in chosen)
    if chosen == ("interpreted",) and (reason := why_not_compiled()):
        text += f" alone: {reason}"
    return text


def choose(choice: str) -> tuple[str, ...]:
    """The builds to measure. choice: one's name, "both", or "" for what there is. Raises SystemExit where the compiled
    build was asked for and can't be measured."""
    if choice == "interpreted":
        return ("interpreted",)
    if reason := why_not_compiled():
        if choice:
            raise SystemExit(reason)
        return ("interpreted",)
    return ("compiled",) if choice == "compiled" else BUILDS
