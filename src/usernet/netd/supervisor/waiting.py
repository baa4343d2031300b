"""While the command runs: its signals, its being stopped and continued, its end, and that of all it has started.

The process's main thread does nothing else. Signals that concern the command are blocked in every thread and taken here
one by one (sigwaitinfo(2)), with who sent them: one that the terminal sent, the command has got itself, as it is in the
same process group; one that somebody sent to this process is passed on.

A command that leaves processes behind (a daemon) is over when the last of them is: without the supervisor they would
have no network. So this process adopts them (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, final

PASSED_ON: Final = frozenset(
    {
        signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
        signal.SIGWINCH,
    }
)  # fmt: skip
TAKEN: Final = PASSED_ON | {signal.SIGCHLD}
JOB_CONTROL: Final = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
PR_SET_CHILD_SUBREAPER: Final = 36


def prctl(option: int, value: int) -> None:
    """prctl(2) of one argument. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")


@final
class Waiting:
    """From before the fork to the end of the last process. mask: the signals that were blocked before."""

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Begin: with one thread, so that all others have the signals blocked, too. say: told what goes on."""
        self.mask: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN))
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._say = say
        self._over = False

    def end(self) -> None:
        """Have the signals be as they were. Does nothing the second time."""
        if not self._over:
            self._over = True
            prctl(PR_SET_CHILD_SUBREAPER, 0)
            # What came too late for the command is nobody's any more.
            while signal.sigtimedwait(TAKEN - {signal.SIGINT, signal.SIGTERM}, 0) is not None:
                pass
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def wait(self, pid: int) -> int:
        """Until the command, process `pid`, and all that it started have ended. Its exit status; -N where signal N
        ended it."""
        status: int | None = None
        while True:
            found, left = self._reap(pid)
            if found is not None:
                status = found
                if left:
                    self._say("the command has ended; waiting for the processes that it left")
            if not left:
                # Without children and without having seen the command end: someone else waited for it.
                return 0 if status is None else status
            info = signal.sigwaitinfo(TAKEN)
            if info.si_signo != signal.SIGCHLD:
                self._pass_on(info, pid if status is None else 0)

    def _reap(self, pid: int) -> tuple[int | None, bool]:
        """Take note of every child that has ended or stopped. The command's exit status, and whether any is left."""
        status: int | None = None
        while True:
            try:
                child, how = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return status, False
            if not child:
                return status, True
            if os.WIFSTOPPED(how):
                if child == pid and os.WSTOPSIG(how) in JOB_CONTROL and _has_terminal():
                    # Whoever waits for this process is to see that the job has stopped.
                    os.kill(os.getpid(), signal.SIGSTOP)
                    os.kill(pid, signal.SIGCONT)
            elif child == pid:
                status = os.waitstatus_to_exitcode(how)

    def _pass_on(self, info: signal.struct_siginfo, pid: int) -> None:
        """A signal came. pid: the command's, 0 where it has ended: then the signal is for those it has left."""
        if info.si_code > 0:
            return  # of the kernel's: the terminal sends to the whole process group
        for target in (pid,) if pid else tuple(descendants(os.getpid())):
            try:
                os.kill(target, info.si_signo)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended; or become another user's


def end_as(status: int) -> NoReturn:
    """End this process as the command ended: with its exit status, or by the same signal, so that a shell knows what to
    make of it. status: as `Waiting.wait` gives it."""
    if status < 0:
        sys.stdout.flush()
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
    sys.exit(status if status >= 0 else 128 - status)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True


def descendants(pid: int) -> Iterator[int]:
    """The children of a process, theirs, and so on."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)
