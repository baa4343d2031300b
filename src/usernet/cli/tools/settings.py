"""`sysctl`: a stack's settings, in the layout of sysctl(8)."""

from __future__ import annotations

from usernet.cli.tools.common import Options, Text, UsageError, locked, to_json
from usernet.core.sysctl import Value
from usernet.stack import Stack


def _shown(value: Value) -> str:
    return "\t".join(map(str, value)) if isinstance(value, tuple) else str(value)


def sysctl(stack: Stack, *args: str) -> Text:
    """`sysctl` on `stack`: sysctl(stack, "-a"), sysctl(stack, "net.ipv4.ip_forward=1").

    -a: all. -n: values only. -w: all words are settings, NAME=VALUE. -j, --json. A name may be the beginning of many:
    "net.ipv4.tcp".

    Returns what it prints. Raises UsageError for an unknown name or a value out of its bounds; of several settings all
    are checked before the first is changed.
    """
    options = Options("sysctl", "sysctl [-anwj] [NAME[=VALUE]…]")
    for flag, name in (("a", "all"), ("n", "values"), ("w", "write")):
        options.add_argument(f"-{flag}", dest=name, action="store_true")
    options.add_argument("-j", "--json", dest="json", action="store_true")
    options.add_argument("names", nargs="*")
    chosen = options.parse(args)
    table = stack.sysctl
    if not chosen.names and not chosen.all:
        raise UsageError("name: expected at least one, or -a")
    found: list[str] = list(table) if chosen.all else []
    changes: list[tuple[str, str]] = []
    for word in chosen.names:
        name, sign, value = word.replace("/", ".").partition("=") if "=" not in word else word.partition("=")
        name = name.strip().replace("/", ".")
        if sign:
            if name not in table:
                raise UsageError(f"name: there is no sysctl {name!r}")
            changes.append((name, value.strip()))
        elif chosen.write:
            raise UsageError(f"-w: expected NAME=VALUE, not {word!r}")
        elif name in table:
            found.append(name)
        else:
            below = [path for path in table if path.startswith(name.rstrip("*."))]
            if not below:
                raise UsageError(f"name: there is no sysctl {name!r}")
            found += below
    with locked(stack):
        before = [(name, table[name]) for name, _ in changes]
        try:
            for name, value in changes:
                table[name] = value
        except ValueError as problem:
            for name, old in before:
                table[name] = old
            raise UsageError(str(problem)) from None
        shown = [(name, table[name]) for name in [*found, *(name for name, _ in changes)]]
    if chosen.json:
        return Text(to_json({name: list(value) if isinstance(value, tuple) else value for name, value in shown}))
    return Text("\n".join(_shown(value) if chosen.values else f"{name} = {_shown(value)}" for name, value in shown))
