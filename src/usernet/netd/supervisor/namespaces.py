"""The namespaces that a command runs in (namespaces(7)), and the files that it sees instead of the host's.

An empty network namespace, so that what isn't taken by the filter leads nowhere; a mount namespace, for its own
resolv.conf, hosts and nsswitch.conf; for those who aren't root a user namespace, which the others need, in which they
are who they are outside. Called in the child between fork and exec, so it has one thread and changes nothing else.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final, NamedTuple

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000

HIDDEN: Final = (
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/avahi-daemon/socket",
)
"""Sockets of daemons that look up names on the host's network, on behalf of whoever asks."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Made(NamedTuple):
    """Which namespaces the process has got. problem: why it hasn't got more, "" where it has all."""

    user: bool
    mount: bool
    network: bool
    problem: str


def _call(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _call(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    _call(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() or None),
        f"mount on {target}",
    )


def enter() -> Made:
    """Put this process into namespaces of its own, as far as it may. Raises nothing."""
    user, group = os.geteuid(), os.getegid()
    mine = False
    try:
        try:
            unshare(CLONE_NEWNS | CLONE_NEWNET)
        except PermissionError:
            unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
            mine = True
            _map(user, group)
    except OSError as problem:
        return Made(mine, mine, mine, str(problem))
    try:
        # What is mounted here stays here; what the host mounts later is still seen.
        mount("none", "/", "", MS_REC | MS_SLAVE)
    except OSError as problem:
        return Made(mine, False, True, str(problem))
    return Made(mine, True, True, "")


def _map(user: int, group: int) -> None:
    """In a new user namespace: be the user and the group that one is outside."""
    # A group may be mapped only by those who gave up setgroups(2), with which to drop one's groups (CVE-2014-8989).
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def put_in_place(files: dict[str, str]) -> list[str]:
    """Have the files at these paths be others: path → the path of what is to be seen there. In a mount namespace of
    one's own. Returns what could not be done, a line each."""
    problems = []
    missing: dict[str, list[str]] = {}
    for target in files:
        if not os.path.exists(target):
            missing.setdefault(os.path.dirname(target), []).append(target)
    for directory, targets in missing.items():
        try:
            _make_room(directory, targets, os.path.dirname(files[targets[0]]))
        except OSError as problem:
            problems.append(f"{directory} can't have files of the command's own: {problem}")
    for target, source in files.items():
        try:
            mount(source, target, "", MS_BIND)
        except OSError as problem:
            problems.append(f"{target} is the host's: {problem}")
    return problems


def hide(paths: tuple[str, ...], empty: str) -> list[str]:
    """Put the file `empty` in place of these sockets, so that a connect(2) is refused. Returns what could not be."""
    problems = []
    for path in {os.path.realpath(path) for path in paths if os.path.exists(path)}:
        try:
            mount(empty, path, "", MS_BIND)
        except OSError as problem:
            problems.append(f"{path} is not hidden: {problem}")
    return problems


def _make_room(directory: str, targets: list[str], scratch: str) -> None:
    """Have something to mount on at `targets`, which aren't there: their directory becomes one of which only this
    process sees that it has the files (overlayfs). A link that leads nowhere, too, is replaced."""
    upper, work = (f"{scratch}/{kind}{directory.replace('/', '-')}" for kind in ("upper", "work"))
    for path in (upper, work):
        os.makedirs(path, exist_ok=True)
    mount("overlay", directory, "overlay", 0, f"lowerdir={directory},upperdir={upper},workdir={work}")
    for target in targets:
        if os.path.islink(target):
            os.unlink(target)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
