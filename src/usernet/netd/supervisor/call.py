"""A system call that was taken, on its way to its answer.

What carries it out is a generator, which yields a function that asks the backend, and gets the result, or has the
problem raised in it. So a call that waits costs no thread. It ends by returning the call's result, by raising OSError
for an errno, or `Proceed` to leave it to the kernel.

Its thread may get a signal at any moment, and then nobody waits for the answer: what was prepared for it is undone.
What can't be undone (a connection under way, data sent) is remembered for a moment: where the kernel, or the program,
makes the very same call again because of the signal, it is given the answer that it has missed (`repeat`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from usernet.core.errors import error
from usernet.core.native import mypyc_attr
from usernet.netd.interface import Done, Pending
from usernet.netd.supervisor.process import PidFd
from usernet.netd.supervisor.seccomp import Notification
from usernet.netd.supervisor.table import Entry

if TYPE_CHECKING:
    from usernet.netd.supervisor.supervisor import Supervisor

Ask: TypeAlias = Callable[[Done], Pending | None]
Steps: TypeAlias = Generator[Ask, Any, int | None]
"""Returns what the call returns; None where it was answered already."""

INT_MASK: Final = 0xFFFFFFFF
O_NONBLOCK: Final = os.O_NONBLOCK


@mypyc_attr(native_class=False)
class Proceed(Exception):
    """The call is the kernel's to carry out."""


@mypyc_attr(native_class=False)
class Gone(Exception):
    """Nobody waits for the answer any more."""


def c_int(argument: int) -> int:
    """An argument that the call takes as int."""
    argument &= INT_MASK
    return argument - (1 << 32) if argument >> 31 else argument


@final
class Call:
    """One taken call. steps: what carries it out; None once it is over. pending: the backend's, while it waits.
    content: where it is set, the answer is kept for `repeat` if nobody hears it. sigpipe: EPIPE comes with SIGPIPE."""

    __slots__ = (
        "args", "content", "id", "name", "nonblock", "nr", "pending", "pidfd", "sigpipe", "steps", "supervisor", "tid",
    )  # fmt: skip

    def __init__(self, supervisor: Supervisor, notification: Notification, name: str) -> None:
        self.supervisor = supervisor
        self.id, self.tid, self.nr, self.args = notification
        self.name = name
        self.nonblock: bool = False
        self.pidfd: PidFd | None = None
        self.steps: Steps | None = None
        self.pending: Pending | None = None
        self.content: bytes | None = None
        self.sigpipe: bool = False

    def describe(self) -> str:
        """What it is, for people."""
        shown = {"socket": 3, "setsockopt": 3, "getsockopt": 3, "ioctl": 2}.get(self.name, 0)
        numbers = [c_int(argument) for argument in self.args[:shown]]
        if self.name == "ioctl":
            return f"ioctl({self.args[1] & INT_MASK:#x})"
        if self.name in ("setsockopt", "getsockopt"):
            return f"{self.name}(level {numbers[1]}, option {numbers[2]})"
        return f"{self.name}({', '.join(map(str, numbers))})"

    # -- its descriptor

    def duplicate(self, number: int) -> int:
        """A duplicate of a descriptor of the process. Raises `Proceed` where it has none: the kernel says so."""
        threads = self.supervisor.threads
        for _ in range(2):
            try:
                pidfd = self.pidfd = threads.of(self.tid)
                return pidfd.get_fd(number)
            except OSError as problem:
                threads.forget(self.tid)
                if problem.errno == errno.ESRCH:
                    continue  # it was known by a number that is another's now
                if problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                break
        raise Proceed

    def entry(self, index: int = 0, *, check: bool = True, waits: bool = False) -> Entry:
        """The socket of the descriptor in an argument. Raises `Proceed` for one that is the host's, `Gone`.

        check: False where memory is read, and so `Gone` is raised, before anything else. waits: find `nonblock` out.
        """
        number = c_int(self.args[index])
        fd = self.duplicate(number)
        try:
            entry = self.supervisor.table.find(os.fstat(fd))
            if entry is None:
                raise Proceed
            if waits:
                self.nonblock = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & O_NONBLOCK)
        finally:
            os.close(fd)
        if check:
            self.check()
        assert self.pidfd is not None
        entry.holders.add(self.pidfd, number)
        return entry

    def is_socket(self) -> bool:
        """Whether its first argument is a socket of any kind."""
        fd = self.duplicate(c_int(self.args[0]))
        try:
            return stat.S_ISSOCK(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    # -- its memory

    def check(self) -> None:
        """What was read of the process is the process's that made the call. Raises `Gone`."""
        if not self.supervisor.notifier.valid(self.id):
            raise Gone

    def read(self, address: int, size: int) -> bytes:
        """Raises OSError EFAULT, `Gone`."""
        data = self.supervisor.memory.read(self.tid, address, size)
        self.check()
        return data

    def read_int(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little", signed=True)

    def write(self, address: int, data: bytes) -> None:
        """Raises OSError EFAULT, `Gone`."""
        self.check()
        self.supervisor.memory.write(self.tid, address, data)

    def read_name(self, address: int, length: int) -> bytes:
        """A socket address (Linux: move_addr_to_kernel). Raises OSError EINVAL, EFAULT."""
        if not 0 <= length <= 128:
            raise error(errno.EINVAL)
        return self.read(address, length)

    def write_name(self, name: bytes, address: int, length_at: int) -> None:
        """Linux: move_addr_to_user. Raises OSError EINVAL, EFAULT."""
        self.put_name(name, address, self.read_int(length_at), length_at)

    def put_name(self, name: bytes, address: int, length: int, length_at: int) -> None:
        """The same, of a `length` that was read before."""
        if length < 0:
            raise error(errno.EINVAL)
        part = name[:length]
        self.write_both(address, part, length_at, len(name))

    def write_both(self, address: int, value: bytes, length_at: int, length: int) -> None:
        """Write a value and how long it is. Raises OSError EFAULT, `Gone`."""
        self.check()
        memory = self.supervisor.memory
        data = value + length.to_bytes(4, "little")
        if memory.scatter(self.tid, ((address, len(value)), (length_at, 4)), data) < len(data):
            raise error(errno.EFAULT)

    # -- its answer

    def answer(self, value: int) -> bool:
        """False where nobody waits for it."""
        return self.supervisor.notifier.answer(self.id, value)

    def repeat(self, what: bytes = b"") -> int | None:
        """What the same call (`what`: with the same content) returned a moment ago, and nobody heard; None for none.
        Raises OSError where it failed. And if nobody hears this one's answer, it is kept, too."""
        self.content = what
        missed = self.supervisor.missed
        return missed.take(self, what) if missed.some else None
