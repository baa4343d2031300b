"""Sysctls: typed settings under Linux's names, one set per stack.

A layer keeps its settings as attributes of a class of its own, which the data path reads directly, and registers each
under its path; `SysctlTable` is the view by name, with the checks of proc_dointvec_minmax. The view is made when it is
first looked at: most stacks live without anyone doing so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, final

INT_MAX: Final = 2**31 - 1
INT_MIN: Final = -(2**31)

_MAX_LATER: Final = 200
"""What is put off at most, where devices come and go and nobody looks at the table."""

Value = int | str | tuple[int, ...]


@final
class SysctlEntry:
    """One setting: attribute `attribute` of `holder`, an integer, a string or a row of integers."""

    __slots__ = ("attribute", "choices", "default", "high", "holder", "low", "on_change", "path", "read_only")

    def __init__(
        self,
        path: str,
        holder: object,
        attribute: str,
        low: int,
        high: int,
        choices: Callable[[], list[str]] | None,
        on_change: Callable[[], None] | None,
        read_only: bool,
    ) -> None:
        self.path = path
        self.holder = holder
        self.attribute = attribute
        self.low = low
        self.high = high
        self.choices = choices
        self.on_change = on_change
        self.read_only = read_only
        self.default: Value = getattr(holder, attribute)

    def get(self) -> Value:
        value: Value = getattr(self.holder, self.attribute)
        return value

    def set(self, value: Any) -> None:
        if self.read_only:
            raise ValueError(f"{self.path}: can't be set")
        checked = self._check(value)
        setattr(self.holder, self.attribute, checked)
        if self.on_change is not None:
            self.on_change()

    def _check(self, value: Any) -> Value:
        if isinstance(self.default, tuple):
            if not isinstance(value, (str, tuple, list)):
                raise ValueError(f"{self.path}: expected {len(self.default)} integers, not {value!r}")
            numbers = tuple(self._check_int(part) for part in (value.split() if isinstance(value, str) else value))
            if len(numbers) != len(self.default):
                raise ValueError(f"{self.path}: expected {len(self.default)} integers, not {value!r}")
            return numbers
        if isinstance(self.default, int):
            if isinstance(value, tuple):
                raise ValueError(f"{self.path}: expected one integer, not {value!r}")
            return self._check_int(value)
        text = value if isinstance(value, str) else str(value)
        if self.choices is not None:
            allowed = self.choices()
            for name in text.split():
                if name not in allowed:
                    raise ValueError(f"{self.path}: expected one of {', '.join(allowed)}, not {name!r}")
        return text

    def _check_int(self, value: Any) -> int:
        try:
            if not isinstance(value, (int, str)):
                raise ValueError
            number = int(value, 0) if isinstance(value, str) else int(value)
        except ValueError:
            raise ValueError(f"{self.path}: expected an integer, not {value!r}") from None
        if not self.low <= number <= self.high:
            raise ValueError(f"{self.path}: expected {self.low} to {self.high}, not {number}")
        return number


@final
class SysctlTable:
    """A stack's sysctls by name: `table["net.ipv4.tcp_sack"] = 0`. Slashes serve as dots do (sysctl(8))."""

    def __init__(self) -> None:
        self._entries: dict[str, SysctlEntry] = {}
        self._later: list[Callable[[], None]] = []

    def later(self, publish: Callable[[], None]) -> None:
        """Call `publish`, which registers, once the table is first looked at."""
        self._later.append(publish)
        if len(self._later) > _MAX_LATER:
            self._all()

    def register_rows(self, prefix: str, holder: object, rows: tuple[tuple[str, int, int], ...]) -> None:
        """Publish integers of `holder` below `prefix`, each with its bounds, once the table is looked at."""
        self.later(partial(self._register_rows, prefix, holder, rows))

    def _register_rows(self, prefix: str, holder: object, rows: tuple[tuple[str, int, int], ...]) -> None:
        for name, low, high in rows:
            self.register(f"{prefix}.{name}", holder, name, low, high)

    def _all(self) -> dict[str, SysctlEntry]:
        """The entries, all of them."""
        later, self._later = self._later, []
        for publish in later:
            publish()
            if self._later:
                # What it registered, before what was put off behind it.
                self._all()
        return self._entries

    def register(
        self,
        path: str,
        holder: object,
        attribute: str = "",
        low: int = 0,
        high: int = INT_MAX,
        choices: Callable[[], list[str]] | None = None,
        on_change: Callable[[], None] | None = None,
        read_only: bool = False,
    ) -> None:
        """Publish `holder`'s attribute (default: the last part of `path`) under `path`.

        low, high: the bounds of an integer, both included. choices: gives the words a string may be made of.
        on_change: called after a value was set. read_only: it can't be, and is read anew each time.
        """
        attribute = attribute or path.rpartition(".")[2]
        self.later(
            lambda: self._add(SysctlEntry(path, holder, attribute, low, high, choices, on_change, read_only))
        )

    def _add(self, entry: SysctlEntry) -> None:
        self._entries[entry.path] = entry

    def unregister(self, prefix: str) -> None:
        """Remove every entry below `prefix` (a device that goes away)."""
        self.later(partial(self._unregister, prefix + "."))

    def _unregister(self, prefix: str) -> None:
        for path in [p for p in self._entries if p.startswith(prefix)]:
            del self._entries[path]

    def _entry(self, path: object) -> SysctlEntry:
        entries = self._all()
        entry = entries.get(path) or entries.get(path.replace("/", ".")) if isinstance(path, str) else None
        if entry is None:
            raise KeyError(f"no sysctl named {path!r}")
        return entry

    def __getitem__(self, path: str) -> Value:
        return self._entry(path).get()

    def __setitem__(self, path: str, value: Any) -> None:
        """Raises KeyError for an unknown name, ValueError for a value out of its bounds; nothing changes then."""
        self._entry(path).set(value)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and (path in self._all() or path.replace("/", ".") in self._all())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def default(self, path: str) -> Value:
        return self._entry(path).default
