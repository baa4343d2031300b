"""A laboratory: hosts, the cables between them, and the programs that run on them, on virtual time.

Everything that happens follows from the seed: addresses, ports, sequence numbers, what a cable loses. Two runs with
one seed give the same packets, byte for byte and nanosecond for nanosecond, however busy the machine is.
"""

from __future__ import annotations

import functools
import ipaddress
import random
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, final

from usernet.core.clock import NSEC_PER_SEC, ManualClock
from usernet.core.timer import NEVER
from usernet.drivers.veth import veth
from usernet.lab.tasks import Task
from usernet.lab.virtual import TaskWaiter, VirtualTime
from usernet.netdevice.driver import Driver
from usernet.stack import Stack

if TYPE_CHECKING:
    import socketserver

START: Final = 1000 * NSEC_PER_SEC
"""What the clock shows at first (ns). Not 0, which code of a kernel takes for "never"."""

EPOCH: Final = 1_767_225_600
"""The time of day at the start, for captures and `Lab.time`: 2026-01-01 00:00:00 UTC, the same in every run."""


@final
class Lab:
    """A laboratory.

    seed: of everything that happens by chance; None for one that is new each time, which `seed` then tells.

    `with Lab() as lab:` closes it at the end; tasks that still wait are ended.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed: int = random.SystemRandom().getrandbits(32) if seed is None else seed
        self.stacks: list[Stack] = []
        self.tasks: list[Task] = []
        self._random = random.Random(self.seed)
        self._clock = ManualClock(START, EPOCH * NSEC_PER_SEC - START)
        self._time = VirtualTime(self._clock)
        self._time.on_end = self._ended
        self._joining: dict[Task, list[TaskWaiter]] = {}
        self._running: TaskWaiter | None = None
        self._until: bool = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<usernet.Lab seed={self.seed} now={self.now:g} hosts={len(self.stacks)} tasks={len(self.tasks)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- time

    @property
    def now(self) -> float:
        """Seconds of virtual time since the lab was made."""
        return (self._clock.now() - START) / NSEC_PER_SEC

    def time(self) -> float:
        """The time of day on virtual time, seconds since 1970: `time.time` for what runs here."""
        return (self._clock.now() + self._clock.realtime_offset) / NSEC_PER_SEC

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass: for tasks, what `time.sleep` is elsewhere. Raises ValueError below 0."""
        if seconds < 0:
            raise ValueError(f"sleep length must be non-negative, not {seconds!r}")
        task = self._time.task()
        waiter = TaskWaiter(self._time, task)
        self._time.wait_for(waiter, task, self._clock.now() + round(seconds * NSEC_PER_SEC))

    # -- hosts

    def host(self, name: str = "") -> Stack:
        """A new host, with no device but `lo`. It runs on virtual time; a started stack would on the host's."""
        self._check_open()
        stack = Stack(name or f"host{len(self.stacks)}", clock=self._clock, seed=self._random.getrandbits(64))
        self._time.attach(stack.loop)
        self.stacks.append(stack)
        return stack

    def hosts(self, count: int = 2, *, network: str = "10.0.0.0/24", **cable: Any) -> list[Stack]:
        """`count` hosts named a, b, …, in a row: each joined to the next by a cable, whose settings `cable` are (see
        `cable`). Two have the addresses 10.0.0.1 and 10.0.0.2. Of more, each cable has the next network of the size
        of `network`, those between forward, and all have routes to all.

        Raises ValueError for a count or network that is none.
        """
        if not 1 <= count <= 26:
            raise ValueError(f"count: expected 1 to 26 hosts, not {count!r}")
        try:
            base = ipaddress.IPv4Network(network)
        except ValueError as cause:
            raise ValueError(f"network: expected something like 10.0.0.0/24, not {network!r} ({cause})") from None
        if base.num_addresses < 4:
            raise ValueError(f"network: expected room for two hosts, a prefix of at most 30 bits, not {network!r}")
        stacks = [self.host(chr(ord("a") + number)) for number in range(count)]
        links = [
            ipaddress.IPv4Network((int(base.network_address) + number * base.num_addresses, base.prefixlen))
            for number in range(count - 1)
        ]
        for number, link in enumerate(links):
            ends = (f"{link[1]}/{link.prefixlen}", f"{link[2]}/{link.prefixlen}")
            self.cable(stacks[number], stacks[number + 1], *ends, **cable)
        for place, stack in enumerate(stacks):
            if 0 < place < count - 1:
                stack.sysctl["net.ipv4.ip_forward"] = 1
            for number, link in enumerate(links):
                if number > place:
                    stack.add_route(str(link), via=str(links[place][2]))
                elif number < place - 1:
                    stack.add_route(str(link), via=str(links[place - 1][1]))
        return stacks

    def cable(
        self, left: Stack, right: Stack, left_address: str = "", right_address: str = "", **settings: Any
    ) -> tuple[Driver, Driver]:
        """Join two hosts by a cable, with a new device on each: the next free of eth0, eth1, …

        left_address, right_address: "10.0.0.1/24", or "" for none. settings: delay and jitter in seconds, rate in
        bit/s, loss, duplicate, corrupt and reorder from 0 to 1, limit in packets, buffer and ecn_threshold in bytes,
        and, in `back`, what is different on the way from right to left: as for `drivers.veth`.

        Returns the drivers of the two ends. Raises ValueError and TypeError for a setting that is none.
        """
        self._check_open()
        settings.setdefault("seed", self._random.getrandbits(64))
        ends = veth(**settings)
        for stack, end, address in ((left, ends[0], left_address), (right, ends[1], right_address)):
            number = 0
            while f"eth{number}" in stack.devices:
                number += 1
            stack.add_device(end, f"eth{number}", *([address] if address else []))
        return ends

    # -- programs

    def spawn(self, function: Callable[..., Any], *args: Any, name: str = "", daemon: bool = False) -> Task:
        """Run `function(*args)` as a task: a plain Python function that may call all that waits, on any host.

        It begins when this task next waits, in a copy of the context of who calls (so `with usernet.using(host):`
        holds in it). daemon: `run` doesn't wait for its end, as for a server's.
        """
        self._check_open()
        name = name or f"{getattr(function, '__name__', 'task')}-{len(self.tasks)}"
        task = Task(name, functools.partial(function, *args), daemon)
        self.tasks.append(task)
        self._time.spawn(task)
        return task

    def serve(self, server: socketserver.BaseServer) -> Task:
        """Run a server of the standard library (http.server.HTTPServer, socketserver.TCPServer) as daemon tasks: one
        that accepts, and one for each request. For `serve_forever`, which waits in the host's `select`, outside of
        virtual time. It ends when the server's socket, or the lab, is closed."""

        def accept() -> None:
            while True:
                try:
                    request, address = server.get_request()
                except OSError:
                    return
                if server.verify_request(request, address):
                    self.spawn(handle, request, address, name="request", daemon=True)
                else:
                    server.shutdown_request(request)

        def handle(request: Any, address: Any) -> None:
            try:
                server.finish_request(request, address)
            except Exception:
                server.handle_error(request, address)
            finally:
                server.shutdown_request(request)

        return self.spawn(accept, name="server", daemon=True)

    def join(self, task: Task) -> Any:
        """Wait for the end of `task`; returns what its function returned, and raises what it raised."""
        if not task.done:
            me = self._time.task()
            waiter = TaskWaiter(self._time, me)
            self._joining.setdefault(task, []).append(waiter)
            self._time.wait_for(waiter, me, NEVER)
        return task.result()

    def run(self, until: float | None = None) -> None:
        """Let the tasks run: until all have ended but the daemons, or, with `until` (seconds, as `now`), up to that
        time exactly, tasks or no tasks.

        Raises the first error of a task that nobody asked for by `result` or `join`, as soon as that task has ended;
        ValueError for a time that has passed; StalledError where tasks are left that nothing can wake.
        """
        self._check_open()
        task = self._time.task()
        if task is not self._time.main:
            raise RuntimeError("run() is for who made the lab: a task waits by lab.join(task) or lab.sleep(seconds)")
        deadline = NEVER
        if until is not None:
            deadline = START + round(until * NSEC_PER_SEC)
            if deadline < self._clock.now():
                raise ValueError(f"until: expected a time from {self.now:g} s on, not {until!r}")
        if until is not None or any(not (each.done or each.daemon) for each in self.tasks):
            self._until = until is not None
            self._running = waiter = TaskWaiter(self._time, task)
            try:
                self._time.wait_for(waiter, task, deadline)
            finally:
                self._running = None
        for each in self.tasks:
            if each.error is not None and not each.observed:
                each.result()

    def _ended(self, task: Task) -> None:
        for waiter in self._joining.pop(task, ()):
            task.observed = True
            waiter.wake(0)
        running = self._running
        if running is not None:
            failed = task.error is not None and not task.observed
            if failed or (not self._until and all(each.done or each.daemon for each in self.tasks)):
                running.wake(0)

    # -- the end

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this lab is closed")

    def close(self) -> None:
        """End it: the tasks that wait (by `LabClosedError`), then the hosts. Does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._time.close()
        for stack in self.stacks:
            stack.close()
