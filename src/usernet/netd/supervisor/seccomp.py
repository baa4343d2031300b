"""System calls handed to another process: seccomp's user notification (seccomp(2), seccomp_unotify(2)).

`install` puts a filter on the calling process, for good and for all that comes of it, and gives the descriptor by
which the calls that it takes are told of. `Notifier` is that descriptor's other side. A call that was received is
pending until it is answered, or until its thread gets a signal or dies: then its id is valid no more, without a word.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from struct import Struct
from typing import Final, NamedTuple, final

from usernet.core.errors import error
from usernet.netd.supervisor.abi import of_this_machine

PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3

# linux/seccomp.h
SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 0x40082102
SECCOMP_IOCTL_NOTIF_ADDFD: Final = 0x40182103
SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 0x40082104
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: Final = 1
SECCOMP_USER_NOTIF_FLAG_CONTINUE: Final = 1
SECCOMP_ADDFD_FLAG_SETFD: Final = 1
SECCOMP_ADDFD_FLAG_SEND: Final = 2

GONE: Final = (errno.ENOENT, errno.EINPROGRESS)
"""What the kernel says of a call that got a signal or has ended, and of one that was answered."""

_NOTIF: Final = Struct("=QIIiIQ6Q")
_RESP: Final = Struct("=QqiI")
_ADDFD: Final = Struct("=QIIII")
_ID: Final = Struct("=Q")
_FPROG: Final = Struct("@HP")
_EMPTY: Final = bytes(_NOTIF.size)
_INSTRUCTION: Final = 8

_ioctl = fcntl.ioctl
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Notification(NamedTuple):
    """A call that was taken. id: by which it is answered. pid: of the thread that made it, as seen from here, 0 where
    it is not to be seen. nr: its number. args: its six arguments, unsigned."""

    id: int
    pid: int
    nr: int
    args: tuple[int, ...]


def install(program: bytes) -> int:
    """Put the filter `program` (bpf.py) on this process, its only thread, and its descendants. Returns the notify
    descriptor, close-on-exec.

    Without CAP_SYS_ADMIN it gives up new privileges for good first (PR_SET_NO_NEW_PRIVS): what it executes is then
    never set-user-ID. Raises OSError: EBUSY where a filter with such a descriptor is on it already, ENOSYS, EINVAL
    where the kernel knows no such thing.
    """
    # In one piece, so that the program is there for as long as what points to it is.
    fprog = ctypes.create_string_buffer(_FPROG.size + len(program))
    _FPROG.pack_into(fprog, 0, len(program) // _INSTRUCTION, ctypes.addressof(fprog) + _FPROG.size)
    memoryview(fprog).cast("B")[_FPROG.size :] = program
    number = of_this_machine().numbers["seccomp"]
    code = 0
    for privileged in (True, False):
        if not privileged and _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise error(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
        fd: int = _libc.syscall(
            ctypes.c_long(number),
            ctypes.c_long(SECCOMP_SET_MODE_FILTER),
            ctypes.c_long(SECCOMP_FILTER_FLAG_NEW_LISTENER),
            fprog,
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code != errno.EACCES:
            break
    raise error(code, f"seccomp: {os.strerror(code)}")


@final
class Notifier:
    """The calls that a filter has taken. fd: readable while one waits to be received; hangs up when the last process
    under the filter is gone."""

    def __init__(self, fd: int) -> None:
        """Takes `fd` over: `close` closes it."""
        self.fd = fd
        try:
            # One of the two runs at a time anyway: have the kernel not look for another CPU (Linux 6.6).
            _ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError:
            pass

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        """Let go. Calls that are pending, and all that would be taken from now on, fail with ENOSYS."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def receive(self) -> Notification | None:
        """The next call; waits for one. None where the one that was there has gone."""
        try:
            answer = _ioctl(self.fd, SECCOMP_IOCTL_NOTIF_RECV, _EMPTY)
        except FileNotFoundError:
            return None
        found, pid, _, nr, _, _, *args = _NOTIF.unpack(answer)
        return Notification(found, pid, nr, tuple(args))

    def valid(self, id: int) -> bool:
        """Whether the call is still pending: its thread exists, is the one that made it, and waits."""
        try:
            _ioctl(self.fd, SECCOMP_IOCTL_NOTIF_ID_VALID, _ID.pack(id))
        except FileNotFoundError:
            return False
        return True

    def answer(self, id: int, value: int, code: int = 0) -> bool:
        """Have the call return `value`, or, with `code`, fail with that errno. False where it is pending no more."""
        return self._send(_RESP.pack(id, value, -code, 0))

    def proceed(self, id: int) -> bool:
        """Have the kernel carry out the call as if it had not been taken. False where it is pending no more.

        Its arguments in memory are read again, and may be others by then: never after a judgement of them.
        """
        return self._send(_RESP.pack(id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE))

    def _send(self, response: bytes) -> bool:
        try:
            _ioctl(self.fd, SECCOMP_IOCTL_NOTIF_SEND, response)
        except OSError as problem:
            if problem.errno in GONE:
                return False
            raise
        return True

    def add_fd(self, id: int, fd: int, *, cloexec: bool, send: bool, replace: int = -1) -> int:
        """Put a duplicate of `fd` into the process that made the call. Returns its number there, -1 where the call is
        pending no more.

        cloexec: with FD_CLOEXEC. send: and have the call return that number, in one step. replace: put it in the place
        of that descriptor. Raises OSError: EMFILE where the process has no room for it, EBADF.
        """
        flags = SECCOMP_ADDFD_FLAG_SEND if send else 0
        if replace >= 0:
            flags |= SECCOMP_ADDFD_FLAG_SETFD
        request = bytearray(_ADDFD.pack(id, flags, fd, max(replace, 0), os.O_CLOEXEC if cloexec else 0))
        try:
            number: int = _ioctl(self.fd, SECCOMP_IOCTL_NOTIF_ADDFD, request)
        except OSError as problem:
            if problem.errno in GONE:
                return -1
            raise
        return number
