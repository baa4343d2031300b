"""`nstat`: a stack's counters, in the layout of nstat(8)."""

from __future__ import annotations

from fnmatch import fnmatchcase

from usernet.cli.tools.common import Options, Text, locked, to_json
from usernet.stack import Stack


def nstat(stack: Stack, *args: str) -> Text:
    """`nstat` on `stack`: nstat(stack), nstat(stack, "-z", "Tcp*").

    -z: those that are 0, too. -a: accepted, and always so: the counts are since the stack was made. -d: drops by
    reason as well, under the names `Drop` and the reason's. -j, --json. PATTERN…: only those names, * for anything.

    Returns what it prints. Raises UsageError.
    """
    options = Options("nstat", "nstat [-zadj] [PATTERN…]")
    for flag, name in (("z", "zeros"), ("a", "absolute"), ("s", "noupdate"), ("d", "drops")):
        options.add_argument(f"-{flag}", dest=name, action="store_true")
    options.add_argument("-j", "--json", dest="json", action="store_true")
    options.add_argument("patterns", nargs="*")
    chosen = options.parse(args)
    with locked(stack):
        counts = {
            f"{group}{name}": stack.mib[group][name] for group in stack.mib for name in stack.mib[group]
        }
        if chosen.drops:
            counts |= {f"Drop{reason.name}": count for reason, count in stack.net.drops.counts.items()}
    counts = {
        name: count
        for name, count in counts.items()
        if (count or chosen.zeros) and (not chosen.patterns or any(fnmatchcase(name, one) for one in chosen.patterns))
    }
    if chosen.json:
        return Text(to_json({"kernel": counts}))
    return Text("\n".join(["#kernel", *(f"{name:<32}{count:<16}0.0" for name, count in counts.items())]))
