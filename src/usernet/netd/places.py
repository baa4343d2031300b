"""Where a service's Unix socket is: by the name of the stack, or by its path.

    /run/usernet/NAME.sock                for root
    $XDG_RUNTIME_DIR/usernet/NAME.sock    for others (without the variable: /tmp/usernet-UID/NAME.sock)

The root of a user namespace with one user is that user, as those outside know them.

A lock beside it says that a service has the name, so that a socket which one left behind that was killed is told from
one that is in use.
"""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
from typing import final

from usernet.netd.config import DEFAULT_STACK, STACK_NAME
from usernet.netd.table import ConfigError


def directory() -> str:
    """Where the sockets of this user's services are."""
    given = os.environ.get("USERNET_RUNTIME_DIR", "")
    if given:
        return given
    uid = _user()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and uid:
        return os.path.join(runtime, "usernet")
    return f"/tmp/usernet-{uid}" if uid else "/run/usernet"


def _user() -> int:
    """The user id; of the only user of a user namespace, the one outside: `unshare --map-root-user` makes nobody root
    to whom clients outside would look."""
    uid = os.getuid()
    if uid == 0:
        try:
            with open("/proc/self/uid_map", encoding="ascii") as file:
                rows = [tuple(map(int, line.split())) for line in file]
        except OSError:
            return uid
        if len(rows) == 1 and rows[0][0] == uid and rows[0][2] == 1:
            return rows[0][1]
    return uid


def socket_path(name: str = "") -> str:
    """The path of a stack's socket. name: the stack's; or a path, which has a slash. Raises ValueError for what is
    neither."""
    name = name or DEFAULT_STACK
    if name[0] in "@\0":
        return "\0" + name[1:]  # an abstract one
    if "/" in name:
        return os.path.abspath(name)
    if not STACK_NAME.fullmatch(name):
        raise ValueError(f"stack: expected a name, or the path of its socket, not {name!r}")
    mine = os.path.join(directory(), f"{name}.sock")
    if os.environ.get("USERNET_RUNTIME_DIR"):
        return mine
    system = f"/run/usernet/{name}.sock"
    # A user's own come first, then the machine's.
    return system if not os.path.exists(mine) and os.path.exists(system) else mine


@final
class Place:
    """A name that this process has: a lock on it, and the socket that listens there. `leave` gives both up."""

    def __init__(self, source: str, where: str, path: str, mode: int, group: str) -> None:
        """Raises ConfigError where another service has it, or it can't be had."""
        self.path = path
        self._lock = -1
        folder = os.path.dirname(path)
        try:
            gid = grp.getgrnam(group).gr_gid if group else -1
        except KeyError:
            raise ConfigError(source, f"{where}.access.group", f"there is no group {group!r}") from None
        try:
            os.makedirs(folder, 0o755 if mode & 0o077 else 0o700, exist_ok=True)
            if os.stat(folder).st_uid not in (0, os.getuid()):
                raise ConfigError(source, f"{where}.socket", f"{folder} is another user's")
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_socket(path):
                os.unlink(path)  # of one that was killed
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                # Nobody may connect before the mode is what it is to be.
                before = os.umask(0o177)
                try:
                    self.socket.bind(path)
                finally:
                    os.umask(before)
                if gid >= 0:
                    os.chown(path, -1, gid)
                os.chmod(path, mode)
                self.socket.listen(1024)
            except BaseException:
                self.socket.close()
                raise
        except BlockingIOError:
            self.leave()
            raise ConfigError(source, where, f"a service has this stack already, at {path}") from None
        except OSError as problem:
            self.leave()
            raise ConfigError(source, f"{where}.socket", f"{path}: {problem.strerror}") from None

    def leave(self) -> None:
        """Take the socket's file away, and let go of the name."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        try:
            if getattr(self, "socket", None) is not None:
                _unlink(self.path)
                _unlink(f"{self.path}.lock")
        finally:
            os.close(lock)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
