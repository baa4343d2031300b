"""The files by which a command's C library, or its language's own resolver, looks up names: resolv.conf(5), hosts(5),
nsswitch.conf(5), as its stack would have them."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Final, final

RESOLV_CONF: Final = "/etc/resolv.conf"
HOSTS: Final = "/etc/hosts"
NSSWITCH_CONF: Final = "/etc/nsswitch.conf"
EMPTY: Final = "empty"


@final
class NameFiles:
    """What the three are to say. `problems`: what can't be said in them, a line each."""

    def __init__(
        self,
        hosts: Mapping[str, Sequence[str]],
        nameservers: Sequence[str],
        search: Sequence[str] = (),
        options: Sequence[str] = (),
        own: Sequence[str] = (),
    ) -> None:
        """hosts: name → addresses. nameservers: addresses. options: resolv.conf's. own: the stack's addresses, to which
        the host's name leads."""
        self.problems: list[str] = []
        servers = []
        for server in nameservers:
            try:
                servers.append(str(ipaddress.ip_address(server)))
            except ValueError:
                self.problems.append(f"nameserver {server}: resolv.conf has no port but 53")
        lines = [f"nameserver {server}" for server in servers]
        if search:
            lines.append(f"search {' '.join(search)}")
        if options:
            lines.append(f"options {' '.join(options)}")
        self.resolv_conf = "".join(f"{line}\n" for line in lines)
        by_address: dict[str, list[str]] = {"127.0.0.1": ["localhost"]}
        for name, addresses in hosts.items():
            for address in addresses:
                names = by_address.setdefault(address, [])
                if name not in names:
                    names.append(name)
        machine = os.uname().nodename
        if machine and machine not in hosts:
            for address in own[:1]:
                by_address.setdefault(address, []).append(machine)
        self.hosts = "".join(f"{address}\t{' '.join(names)}\n" for address, names in by_address.items())
        self.nsswitch_conf = nsswitch(_read(NSSWITCH_CONF))

    def write(self, directory: str) -> dict[str, str]:
        """Write them there, and an empty file. Returns: where each is to be seen → where it is."""
        placed = {}
        contents = {RESOLV_CONF: self.resolv_conf, HOSTS: self.hosts}
        if self.nsswitch_conf:
            contents[NSSWITCH_CONF] = self.nsswitch_conf
        os.chmod(directory, 0o755)
        for target, text in (*contents.items(), (EMPTY, "")):
            path = os.path.join(directory, os.path.basename(target))
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, 0o644)
            if target != EMPTY:
                placed[target] = path
        return placed


def _read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def nsswitch(text: str) -> str:
    """nsswitch.conf with `hosts: files dns`, all else as it is. Where there is none the C library's own choice holds,
    which for hosts is the same: ""."""
    if not text:
        return ""
    line = "hosts: files dns\n"
    changed, count = re.subn(r"^[ \t]*hosts[ \t]*:.*\n?", line, text, flags=re.MULTILINE)
    return changed if count else text.rstrip("\n") + "\n" + line


def host_nameservers(loopback: bool = False) -> list[str]:
    """The nameservers of the host's resolv.conf. loopback: also those that no other stack could reach."""
    found = []
    for line in _read(RESOLV_CONF).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1])
            except ValueError:
                continue
            if loopback or not address.is_loopback:
                found.append(words[1])
    return found or (["127.0.0.1"] if loopback else [])


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for these files, gone when it is closed."""
    return tempfile.TemporaryDirectory(prefix="usernet-run-", ignore_cleanup_errors=True)
