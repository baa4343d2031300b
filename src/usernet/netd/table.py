"""A table of a configuration file, read key by key: each with its kind and its bounds, and nothing left at the end."""

from __future__ import annotations

import re
from typing import Any, Final, final

_SIZES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MISSING: Final[Any] = object()
_KINDS: Final = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "an array", dict: "a table",
}  # fmt: skip


class ConfigError(ValueError):
    """What is wrong in a configuration file: in which, where, and what was expected."""

    def __init__(self, source: str, where: str, what: str) -> None:
        super().__init__(f"{source}: {where}: {what}" if where else f"{source}: {what}")
        self.source = source
        self.where = where
        self.what = what


@final
class Table:
    """One table. where: its place in the file, such as stack.main.devices.eth0."""

    def __init__(self, source: str, where: str, values: dict[str, Any]) -> None:
        self.source = source
        self.where = where
        self._values = values
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def wrong(self, key: str, what: str) -> ConfigError:
        """The error to raise for what stands at `key`."""
        return ConfigError(self.source, f"{self.where}.{key}" if self.where else key, what)

    def names(self) -> list[str]:
        """All keys, of a table whose keys are names that the user chose."""
        self._known += self._values
        return list(self._values)

    def take_all(self) -> dict[str, Any]:
        self._known += self._values
        return self._values

    def end(self) -> None:
        """Raises ConfigError where a key was not asked for."""
        for key in self._values:
            if key not in self._known:
                expected = ", ".join(self._known)
                raise self.wrong(key, f"there is no such setting; expected one of {expected}")

    def _take(self, key: str, kind: type, default: Any) -> Any:
        self._known.append(key)
        value = self._values.get(key, _MISSING)
        if value is _MISSING:
            if default is _MISSING:
                raise self.wrong(key, f"expected {_KINDS[kind]}, and it is missing")
            return default
        # To Python a bool is an int, and it is nothing that anybody means by one.
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise self.wrong(key, f"expected {_KINDS[kind]}, not {value!r}")
        return value

    def string(self, key: str, default: str = _MISSING) -> str:
        value: str = self._take(key, str, default)
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str = _MISSING) -> str:
        value = self.string(key, default)
        if value not in choices:
            raise self.wrong(key, f"expected one of {', '.join(choices)}, not {value!r}")
        return value

    def strings(self, key: str) -> list[str]:
        values: list[Any] = self._take(key, list, [])
        for value in values:
            if type(value) is not str:
                raise self.wrong(key, f"expected an array of strings, and {value!r} is none")
        return list(values)

    def boolean(self, key: str, default: bool) -> bool:
        value: bool = self._take(key, bool, default)
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """What is absent is `default`, which may lie outside of the bounds."""
        value: int = self._take(key, int, default)
        if key in self._values and not low <= value <= high:
            shown = f"0o{low:o} to 0o{high:o}" if high == 0o777 else f"{low} to {high}"
            raise self.wrong(key, f"expected {shown}, not {value}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = float(self._take(key, float, default))
        if not low <= value <= high:
            raise self.wrong(key, f"expected {low:g} to {high:g}, not {value:g}")
        return value

    def size(self, key: str, default: int, low: int, high: int) -> int:
        """Bytes: a whole number, or a string such as "64M"."""
        value = self._values.get(key, default)
        self._known.append(key)
        if type(value) is str:
            match = re.fullmatch(r"(\d+)\s*([kmgKMG]?)i?[bB]?", value)
            number = int(match[1]) * _SIZES[match[2].lower()] if match else -1
        else:
            number = value if type(value) is int else -1
        if not low <= number <= high:
            raise self.wrong(key, f'expected a size from {low} bytes on, such as "64M", not {value!r}')
        return number

    def table(self, key: str) -> Table:
        """A table; empty where it is absent."""
        values: dict[str, Any] = self._take(key, dict, {})
        return Table(self.source, f"{self.where}.{key}" if self.where else key, values)

    def tables(self, key: str) -> list[Table]:
        """An array of tables: [[…]]."""
        found: list[Table] = []
        for number, value in enumerate(self._take(key, list, [])):
            where = f"{key}[{number}]"
            if type(value) is not dict:
                raise self.wrong(where, f"expected a table, not {value!r}")
            found.append(Table(self.source, f"{self.where}.{where}", value))
        return found
