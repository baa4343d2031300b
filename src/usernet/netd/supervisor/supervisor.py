"""The supervisor of a command: takes its network system calls, has them carried out, and gives their answers.

One thread at a time receives the calls, reads and writes the memory of the processes, and answers: where the stack is
in this process, the one that drives it, for two that pass the interpreter to and fro would take many times as long;
else one of its own. What may have to wait is asked of the backend, which answers from any thread; then the call is gone
on with. Thousands may wait at once.

When a thread of the command gets a signal, its call is called off without a word. So whatever waits is looked after:
a thread that makes another call has given up the one before, and every second all are asked about.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from usernet.core.errors import UnusableStackError, report
from usernet.netd.interface import Backend
from usernet.netd.supervisor import calls_data, calls_ioctl, calls_mmap, calls_options, calls_socket
from usernet.netd.supervisor.abi import of_this_machine
from usernet.netd.supervisor.call import Call, Gone, Proceed, Steps
from usernet.netd.supervisor.memory import Memory
from usernet.netd.supervisor.missed import Missed
from usernet.netd.supervisor.process import Threads
from usernet.netd.supervisor.seccomp import Notification, Notifier
from usernet.netd.supervisor.standin import StandIns
from usernet.netd.supervisor.table import Table

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether those who wait still do."""

UNSUPPORTED: Final = frozenset(
    {
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.ENOSYS,
    }
)
"""What is said of a call that the stack does not have."""
AT_ONCE: Final = 32
"""Calls that are begun before the devices have their turn."""
LINES_MAX: Final = 1000
"""Different lines of them that are told."""

HANDLERS: Final[Mapping[str, Callable[[Call], Steps]]] = {
    **calls_socket.HANDLERS,
    **calls_options.HANDLERS,
    **calls_data.HANDLERS,
    **calls_ioctl.HANDLERS,
    **calls_mmap.HANDLERS,
}


@final
class Answer:
    """What a backend tells of one question. told: before the question had returned."""

    __slots__ = ("call", "later", "problem", "result", "supervisor", "told")

    def __init__(self, supervisor: Supervisor, call: Call) -> None:
        self.supervisor = supervisor
        self.call = call
        self.later = False
        self.told = False
        self.result: Any = None
        self.problem: BaseException | None = None

    def __call__(self, result: Any, problem: BaseException | None) -> None:
        self.result = result
        self.problem = problem
        supervisor = self.supervisor
        if threading.get_ident() != supervisor.ident:
            supervisor.answers.append(self)
            if not supervisor.serve_now():
                supervisor.wake()
        elif self.later:
            supervisor.answers.append(self)
        else:
            self.told = True


@final
class Supervisor:
    """Serves the calls that come from `notify_fd`, which it takes over, until the last process under the filter is
    gone, or it is stopped.

    verbose: is told of each call that the stack does not have, a line each. taken: how many calls came; waiting: those
    that wait.
    """

    def __init__(
        self, backend: Backend, notify_fd: int, *, verbose: Callable[[str], None] | None = None
    ) -> None:
        self.backend = backend
        self.notifier = Notifier(notify_fd)
        self.memory = Memory()
        self.threads = Threads()
        self.table = Table()
        self.missed = Missed()
        self.standins = StandIns(self.notifier, self.threads, self.table)
        self.taken: int = 0
        self.waiting: dict[int, Call] = {}
        self.answers: deque[Answer] = deque()
        self.ident: int = 0
        self._verbose = verbose
        self._lines: set[str] = set()
        self._late: set[Call] = set()
        """Calls that were given up when their answer was on its way."""
        self._closed: deque[int] = deque()
        self._wake_fd: int = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._over = threading.Event()
        self._serving = threading.Lock()
        self._look_at: float = 0.0
        self._own_thread: threading.Thread | None = None
        self._end_watch: Callable[[], None] | None = None
        self._poller = select.poll()
        self._poller.register(self.notifier.fd, select.POLLIN)
        self._poller.register(self._wake_fd, select.POLLIN)
        backend_fd = backend.fileno()
        if backend_fd >= 0:
            self._poller.register(backend_fd, select.POLLIN)
        abi = of_this_machine()
        self._handlers = {
            abi.numbers[name]: (name, handler) for name, handler in HANDLERS.items() if name in abi.numbers
        }
        backend.closed = self._closed.append

    # -- running

    def start(self) -> None:
        """Serve from now on, in the thread that drives the stack, or in one of its own."""
        self._end_watch = self.backend.watch((self.notifier.fd, self._wake_fd), self._serve_driven)
        if self._end_watch is None:
            self._own_thread = threading.Thread(target=self._serve_alone, name="usernet-supervisor", daemon=True)
            self._own_thread.start()

    def run(self) -> None:
        """Serve, until nobody is left to be served, or `stop`."""
        self.start()
        self._over.wait()

    def stop(self) -> None:
        """Serve no more, and have `run` return. From any thread."""
        self._stopping = True
        self._over.set()
        end_watch, self._end_watch = self._end_watch, None
        if end_watch is not None:
            end_watch()
        if self._own_thread is not None:
            self.wake()
            self._own_thread.join()
            self._own_thread = None

    def close(self) -> None:
        """Stop, and let go of the notify descriptor: from now on the calls of the command fail with ENOSYS."""
        if self._wake_fd < 0:
            return
        self.stop()
        with self._serving:
            self.ident = threading.get_ident()
            for call in tuple(self.waiting.values()):
                self._give_up(call)
            # What an answer brings that is on its way has to be undone.
            until = time.monotonic() + LOOK_EVERY
            while True:
                self._go_on_all()
                if not self._late or time.monotonic() > until:
                    break
                time.sleep(0.001)
            self.standins.clear()
            self.table.clear()
            self.threads.clear()
            self.notifier.close()
            os.close(self._wake_fd)
            self._wake_fd = -1

    def wake(self) -> None:
        """There is an answer, or an end."""
        os.eventfd_write(self._wake_fd, 1)

    def _serve_alone(self) -> None:
        while not self._stopping:
            self._serve(LOOK_EVERY * 1000 if self.waiting or self.standins.some else None)

    def _serve_driven(self) -> None:
        self._serve(0)

    def serve_now(self) -> bool:
        """Go on with what was answered, in this thread, which drives the stack and holds no lock. False where another
        one serves."""
        if self._end_watch is None or not self._serving.acquire(False):
            return False
        try:
            self.ident = threading.get_ident()
            self._go_on_all()
        finally:
            self.ident = 0
            self._serving.release()
        return True

    def _serve(self, timeout: float | None) -> None:
        """Serve what is there; `timeout` (ms): wait for it. Where another thread does so, it sees to that too."""
        if not self._serving.acquire(False):
            return
        try:
            self.ident = threading.get_ident()
            for _ in range(AT_ONCE):
                self._go_on_all()
                if self._stopping:
                    break
                events = self._poller.poll(timeout)
                if not events:
                    break
                timeout = 0
                self._serve_events(events)
            if (self.waiting or self.standins.some) and time.monotonic() >= self._look_at:
                self._look()
                self._look_at = time.monotonic() + LOOK_EVERY
        finally:
            self.ident = 0
            self._serving.release()

    def _serve_events(self, events: list[tuple[int, int]]) -> None:
        notify = self.notifier.fd
        for fd, mask in events:
            if fd == notify:
                if mask & select.POLLIN:
                    notification = self.notifier.receive()
                    if notification is not None:
                        self._begin(notification)
                elif mask & (select.POLLHUP | select.POLLERR):
                    # The last process is gone, and nobody waits any more.
                    self._stopping = True
                    self._look_at = 0.0
                    end_watch, self._end_watch = self._end_watch, None
                    if end_watch is not None:
                        end_watch()
                    self._over.set()
            elif fd == self._wake_fd:
                try:
                    os.eventfd_read(fd)
                except BlockingIOError:
                    pass
            else:
                self.backend.ready()

    def _go_on_all(self) -> None:
        answers = self.answers
        while answers:
            self._go_on(answers.popleft())

    def _forget_closed(self) -> None:
        while self._closed:
            self.table.remove(self._closed.popleft())

    # -- the calls

    def _begin(self, notification: Notification) -> None:
        self.taken += 1
        self._forget_closed()
        before = self.waiting.get(notification.pid)
        if before is not None:
            self._give_up(before)
        if self.standins.some:
            self.standins.put_back(notification)
        name, handler = self._handlers.get(notification.nr, ("", None))
        call = Call(self, notification, name)
        if handler is None:
            self.notifier.proceed(call.id)
            return
        call.steps = handler(call)
        self._advance(call, None, None)

    def _go_on(self, answer: Answer) -> None:
        call = answer.call
        self._late.discard(call)
        if call.steps is None:
            return
        if self.waiting.get(call.tid) is call:
            del self.waiting[call.tid]
        call.pending = None
        self._advance(call, answer.result, answer.problem)

    def _advance(self, call: Call, result: Any, problem: BaseException | None) -> None:
        """Go on with a call to its end, or to where it waits."""
        steps = call.steps
        assert steps is not None
        code = 0
        value: int | None = None
        try:
            while True:
                ask = steps.send(result) if problem is None else steps.throw(problem)
                answer = Answer(self, call)
                pending = ask(answer)
                if not answer.told:
                    answer.later = True
                    call.pending = pending
                    self.waiting[call.tid] = call
                    return
                result, problem = answer.result, answer.problem
        except StopIteration as stop:
            value = stop.value
        except Proceed:
            call.steps = None
            self.notifier.proceed(call.id)
            return
        except Gone:
            call.steps = None
            return
        except OSError as failed:
            code = failed.errno or errno.EIO
        except UnusableStackError:
            code = errno.ENETDOWN
        except Exception as failed:
            # A fault of ours, and not of the one who called: it gets an answer, and the others go on.
            report(failed)
            code = errno.EIO
        call.steps = None
        if code or value is not None:
            self._finish(call, value or 0, code)

    def _finish(self, call: Call, value: int, code: int) -> None:
        if not self.notifier.answer(call.id, value, code):
            if call.content is not None:
                self.missed.add(call, call.content, value, code)
            return
        if code:
            if code == errno.EPIPE and call.sigpipe and call.pidfd is not None:
                # After the answer: a signal before it would call it off.
                try:
                    signal.pidfd_send_signal(call.pidfd.fd, signal.SIGPIPE)
                except OSError:
                    pass  # it is gone
            if code in UNSUPPORTED and self._verbose is not None:
                self._tell(call, code)

    def _tell(self, call: Call, code: int) -> None:
        line = f"{call.describe()}: {errno.errorcode[code]}"
        if line not in self._lines and len(self._lines) < LINES_MAX:
            self._lines.add(line)
            assert self._verbose is not None
            self._verbose(line)

    # -- calls that nobody waits for any more

    def _give_up(self, call: Call) -> None:
        """Its thread does not wait for it. Where it is being answered just now, that comes to nothing by itself."""
        self.waiting.pop(call.tid, None)
        pending, call.pending = call.pending, None
        if pending is not None and not pending.cancel():
            self._late.add(call)
            return
        steps, call.steps = call.steps, None
        if steps is not None:
            steps.close()

    def _look(self) -> None:
        self.standins.look()
        for call in tuple(self.waiting.values()):
            if not self.notifier.valid(call.id):
                self._give_up(call)
