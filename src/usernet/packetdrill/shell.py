"""What the shell lines of a script ask of a stack, as typed actions.

`sh` reads the lines and `sh_commands` knows the commands; both end here, at a `Shell`, which a `Target` provides. So a
script that was written for a Linux host (`sysctl`, `ip route`, `tc`, `ethtool`, `nstat`) is carried out on the stack,
and nothing of the host is touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Final, final

ADD: Final = "add"
CHANGE: Final = "change"
REPLACE: Final = "replace"
APPEND: Final = "append"
DELETE: Final = "delete"


@final
@dataclass(slots=True)
class RouteChange:
    """`ip [-6] route add|change|replace|append|delete PREFIX …`.

    `action`: one of this file's constants. `version`: 4 or 6. `destination`: "default" or an address with or without
    "/length", as written. `metrics`: name to number, under iproute2's names (`mtu`, `advmss`, `initcwnd`, `initrwnd`,
    `rto_min` in ms, `quickack`, `window`, `cwnd`, `ssthresh`, `reordering`, `hoplimit`, `features`, …).
    `locked`: the metrics given with "lock". `congctl`: a congestion control's name, empty for none.
    """

    action: str
    version: int
    destination: str
    via: str = ""
    device: str = ""
    source: str = ""
    table: str = ""
    metrics: dict[str, int] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    congctl: str = ""


@final
@dataclass(slots=True)
class QdiscChange:
    """`tc qdisc add|change|replace|delete dev DEVICE root [handle H] [KIND [OPTION …]]`.

    `parent`: "root", "ingress", or a class as written. `kind`: such as "pfifo", empty where only a deletion names none.
    `arguments`: what follows the kind, as written, such as ["limit", "0"].
    """

    action: str
    device: str
    parent: str
    kind: str = ""
    handle: str = ""
    arguments: list[str] = field(default_factory=list)


class Shell(ABC):
    """Everything of a host that shell lines may touch, for one target.

    A method that can't do what is asked raises OSError, as the system would (ENOENT: no such sysctl, device, route;
    EINVAL: a bad value; EEXIST; EOPNOTSUPP: a feature that the stack does not have).
    """

    @abstractmethod
    def sysctl_get(self, name: str) -> str:
        """A sysctl's value as text. `name`: with dots, such as "net.ipv4.tcp_ecn"."""

    @abstractmethod
    def sysctl_set(self, name: str, value: str) -> None:
        """Set a sysctl. `value`: as written to the file in /proc/sys: "1", "0x3", "4096 50000 4194304"."""

    @abstractmethod
    def module_parameter_get(self, module: str, name: str) -> str:
        """A module's parameter as text, such as ("tcp_cubic", "hystart_detect")."""

    @abstractmethod
    def module_parameter_set(self, module: str, name: str, value: str) -> None:
        """Set a module's parameter."""

    @abstractmethod
    def route(self, change: RouteChange) -> None:
        """Change the routing table."""

    @abstractmethod
    def metrics_flush(self, address: str) -> None:
        """Forget what is cached about destinations (`ip tcp_metrics flush`): all of it, or `address`'s if not empty.

        ESRCH where nothing is known of that address.
        """

    @abstractmethod
    def metrics_show(self, address: str) -> str:
        """What `ip tcp_metrics show` prints, of all destinations or of `address` if not empty: lines of text.

        ESRCH as above.
        """

    @abstractmethod
    def qdisc(self, change: QdiscChange) -> None:
        """Change a device's queueing discipline."""

    @abstractmethod
    def features(self, device: str, features: dict[str, bool]) -> None:
        """Switch offloads (`ethtool -K`), under ethtool's short names: "tso", "gso", "gro", "tx", "rx", "sg", …"""

    @abstractmethod
    def link(self, device: str, settings: dict[str, str]) -> None:
        """`ip link set dev DEVICE …`: "mtu" to a number, "state" to "up" or "down", "txqueuelen", "gso_max_size", …"""

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """All MIB counters by nstat's names: group and counter in one word, such as "TcpExtBeyondWindow"."""

    @abstractmethod
    def file_write(self, path: str, data: bytes | None) -> None:
        """Make a file that `open` finds, or remove it (None). Only for this target; the host has no such file."""

    @abstractmethod
    def sleep(self, duration: int) -> None:
        """Let `duration` ns pass on the stack's clock."""
