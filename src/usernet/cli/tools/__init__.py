"""The tools people know, as functions on a stack of this process: `tools.ip(stack, "addr")`.

Each takes the words that would stand on the command line, with the options of the tool it is named after, and returns
what it prints, as a `Text`: a string with the exit `status`. Those that take their time (ping, traceroute, tcpdump,
nc) also give each line to `out` as it comes. A wrong option or argument raises `UsageError`, which names it and says
what was expected; nothing has been changed then.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from usernet.cli.tools.common import Text, UsageError

if TYPE_CHECKING:
    from usernet.cli.tools.counters import nstat
    from usernet.cli.tools.dump import tcpdump
    from usernet.cli.tools.echo import ping
    from usernet.cli.tools.iproute import ip
    from usernet.cli.tools.netcat import nc
    from usernet.cli.tools.path import traceroute
    from usernet.cli.tools.settings import sysctl
    from usernet.cli.tools.sockstat import ss

__all__ = ["Text", "UsageError", "ip", "nc", "nstat", "ping", "ss", "sysctl", "tcpdump", "traceroute"]

# No file has the name of its tool: loading it would put the module in the function's place.
_FILES = {
    "ip": "iproute", "nc": "netcat", "nstat": "counters", "ping": "echo", "ss": "sockstat", "sysctl": "settings",
    "tcpdump": "dump", "traceroute": "path",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    file = _FILES.get(name)
    if file is None:
        raise AttributeError(f"module 'usernet.cli.tools' has no attribute {name!r}")
    return getattr(import_module(f"usernet.cli.tools.{file}"), name)
