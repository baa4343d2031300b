"""USERNET_PURE=1: the interpreted modules run though compiled ones stand beside them.

Python takes an extension module before a source file of the same name. This finder, asked before all others, knows the
source files alone. It is read by the package itself, before any module that might be compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType


class SourceFinder:
    """Finds the package's modules by their sources."""

    def __init__(self) -> None:
        self._places: dict[str, FileFinder] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec; None where it is none of ours, or no source file or package."""
        if path is None or not name.startswith("usernet."):
            return None
        for place in path:
            finder = self._places.get(place)
            if finder is None:
                finder = self._places[place] = FileFinder(place, (SourceFileLoader, SOURCE_SUFFIXES))
            spec = finder.find_spec(name, target)
            if spec is not None:
                return spec
        return None


def install() -> None:
    """Have all modules of the package that are imported from now on run interpreted."""
    sys.meta_path.insert(0, SourceFinder())
