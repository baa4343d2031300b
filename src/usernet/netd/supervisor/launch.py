"""The start of a command: a child that is put into its namespaces, sees its own names, and has the filter on it.

The child is forked first, before this process has a stack and threads, and goes on in steps that it is told:

    parent                                     child
    fork                                   →   namespaces
    (makes the stack, writes the files)    ←   which of them it has got
    `install`: the files                   →   mounts them; installs the filter
    takes the notify descriptor            ←   its number
    `go`                                   →   exec(2)
                                           ←   nothing where that went well, else why not

The descriptor is taken with pidfd_getfd(2): from the moment the filter is installed the child's own sendmsg(2), by
which it could pass it, waits for an answer to be had from that very descriptor.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn, Self, final

from usernet.netd.supervisor import namespaces
from usernet.netd.supervisor.process import PidFd
from usernet.netd.supervisor.resolve import EMPTY, NameFiles, scratch

LARGEST: Final = 65536
"""Bytes of a message between the two."""
FAILED: Final = 125
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127
"""Exit statuses as of env(1): the fault lies here, the command can't be executed, it isn't there."""


class LaunchError(Exception):
    """The command could not be started. status: what to end with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@final
class Command:
    """A command on its way to be started. pid: its process. namespaces: what it has got. problems: what it has not, a
    line each."""

    def __init__(
        self,
        argv: Sequence[str],
        install: Callable[[], int] | None = None,
        *,
        isolate: bool = True,
        mask: set[int] | None = None,
    ) -> None:
        """Fork. argv: the command and its arguments. install: puts the filter on the process that calls it, and gives
        the notify descriptor; None for no filter. isolate: give it namespaces. mask: the signals that it is to have
        blocked; None: those that are."""
        self.problems: list[str] = []
        self._scratch = scratch()
        self._argv = list(argv)
        self._install = install
        self._mask = mask
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = _environment()
        self.pid: int = os.fork()
        if not self.pid:
            self._child(theirs, isolate, environment)
        theirs.close()
        self.pidfd: int = os.pidfd_open(self.pid)
        told = self._hear()
        self.namespaces = namespaces.Made(*told["namespaces"])
        if self.namespaces.problem:
            self.problems.append(f"namespaces: {self.namespaces.problem}")

    # -- the parent's side

    def install(self, names: NameFiles | None) -> int:
        """Have it see these names, and install the filter. Returns the notify descriptor, -1 without a filter.

        Raises LaunchError.
        """
        order: dict[str, Any] = {"files": {}, "empty": ""}
        if names is not None:
            self.problems += names.problems
            if self.namespaces.mount:
                order["files"] = names.write(self._scratch.name)
                order["empty"] = os.path.join(self._scratch.name, EMPTY)
            else:
                self.problems.append("names: without a mount namespace the command sees the host's resolv.conf")
        self._tell(order)
        told = self._hear()
        self.problems += told["problems"]
        number: int = told["notify"]
        if number < 0:
            return -1
        try:
            return PidFd(self.pid).get_fd(number)
        except OSError as problem:
            raise LaunchError(FAILED, f"pidfd_getfd: the filter can't be had: {problem.strerror}") from None

    def go(self) -> None:
        """Have it executed. Raises LaunchError where it can't be."""
        self._tell({})
        data = self._ours.recv(LARGEST)
        self._ours.close()
        if data:
            self._failed(json.loads(data))

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._ours.send(json.dumps(message).encode())
        except OSError:
            pass  # it is gone: `_hear` says so

    def _hear(self) -> dict[str, Any]:
        data = self._ours.recv(LARGEST)
        if not data:
            raise LaunchError(FAILED, f"{self._argv[0]}: its process ended before it was started")
        told: dict[str, Any] = json.loads(data)
        if "problem" in told:
            self._failed(told)
        return told

    def _failed(self, told: dict[str, Any]) -> NoReturn:
        status = FAILED
        if told["exec"]:
            status = NOT_FOUND if told["errno"] == errno.ENOENT else CANNOT_EXECUTE
        raise LaunchError(status, told["problem"])

    def close(self) -> None:
        """Take away what was there for it. One that has not gone yet ends; to wait for it is the caller's."""
        self._ours.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- the child's side

    def _child(self, theirs: socket.socket, isolate: bool, environment: dict[bytes, bytes]) -> NoReturn:
        fd = theirs.fileno()
        executing = False
        try:
            self._ours.close()
            made = namespaces.enter() if isolate else namespaces.Made(False, False, False, "")
            _write(fd, {"namespaces": made})
            order = _read(fd)
            problems: list[str] = []
            if order["files"]:
                problems += namespaces.put_in_place(order["files"])
                problems += namespaces.hide(namespaces.HIDDEN, order["empty"])
            notify = self._install() if self._install is not None else -1
            _write(fd, {"problems": problems, "notify": notify})
            _read(fd)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
                signal.signal(number, signal.SIG_DFL)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self._mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            executing = True
            _execute(self._argv, environment)
        except EOFError:
            pass  # the parent is gone, or gave it up
        except BaseException as problem:
            code = problem.errno if isinstance(problem, OSError) and problem.errno else 0
            text = os.strerror(code) if code and executing else str(problem)
            _write(fd, {"problem": f"{self._argv[0]}: {text}", "errno": code, "exec": executing})
        finally:
            os._exit(CANNOT_EXECUTE)


def _execute(argv: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    """execvp(3): a file that is no program is a script of the shell's."""
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as problem:
        if problem.errno != errno.ENOEXEC:
            raise
    path = argv[0]
    if "/" not in path:
        path = next(
            found
            for directory in environment.get(b"PATH", os.fsencode(os.defpath)).split(b":")
            if os.access(found := os.path.join(os.fsdecode(directory), path), os.X_OK)
        )
    os.execve("/bin/sh", ["/bin/sh", path, *argv[1:]], environment)


def _environment() -> dict[bytes, bytes]:
    """The environment that this process was given: without the LC_CTYPE that Python itself may have put there
    (PEP 538)."""
    environment = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb") as file:
            given = file.read()
    except OSError:
        return environment
    if b"\0LC_CTYPE=" not in b"\0" + given:
        environment.pop(b"LC_CTYPE", None)
    return environment


def _write(fd: int, message: dict[str, Any]) -> None:
    """By write(2), which no filter takes."""
    os.write(fd, json.dumps(message).encode())


def _read(fd: int) -> dict[str, Any]:
    data = os.read(fd, LARGEST)
    if not data:
        raise EOFError
    message: dict[str, Any] = json.loads(data)
    return message
