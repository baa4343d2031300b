"""The runner: leader and followers, the background thread, devices, deadlines, and nothing left behind.

These tests run on the host's clock, for threads are what they are about. None depends on a machine being fast: where a
bound is asserted it is many times what is to be expected, or the best of many tries counts. Starting, stopping and
errors are in test_runner_ends.py, signals and fork in test_runner_signals.py, many threads at once in
test_runner_stress.py.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.toys import Port, start, stop
from tests.support.running import PATIENCE, Pipe, Thread, cables, eventually, running, waits
from usernet.core.softirq import Napi
from usernet.core.timer import NEVER, Timer
from usernet.core.wait import EPOLLIN, Blocking, Wait, WaitQueue
from usernet.runner import Runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    with running() as made:
        yield made


ON_TIME = 1.5
"""How late (ms) is in time. The best of many tries counts: a machine under load has other things to do."""

TRIES = 400

# -- threads that wait, and wake one another


def test_a_thread_leads_while_itwaits(runner):
    with cables(runner) as [(left, right)]:
        waiting = Thread(left.recv)
        eventually(lambda: waits(left), "the thread to wait")
        right.send("hello")
        assert waiting.done() == "hello"


def test_leader_and_follower(runner):
    with cables(runner, 2) as [(left, right), (up, down)]:
        waiting = [Thread(left.recv), Thread(up.recv)]
        eventually(lambda: len(runner._waiting) == 2, "both to wait")
        down.send("second")
        assert waiting[1].done() == "second"
        right.send("first")
        assert waiting[0].done() == "first"


def test_ping_pong(runner):
    with cables(runner) as [(left, right)]:

        def echo() -> None:
            for _ in range(500):
                right.send(right.recv())

        thread = Thread(echo)
        for number in range(500):
            left.send(number)
            assert left.recv(PATIENCE) == number
        thread.done()


def test_a_call_served_at_once_by_its_own_way_out(runner):
    # One thread, two stacks: the request is answered by the other stack's batch, run by the call that sent it.
    with cables(runner) as [(left, right)]:

        class Server(Napi):
            def poll(self, budget: int) -> int:
                right.got.clear()
                right.transmit("answer")
                return 0

        server = Server()
        receive = right.poll

        def poll(budget: int) -> int:
            done = receive(budget)
            right.loop.softirq.schedule(server)
            return done

        right.poll = poll  # type: ignore[method-assign]
        for _ in range(100):
            left.send("request")
            assert left.recv(PATIENCE) == "answer"


def test_one_datagram_wakes_one_of_many(runner):
    with cables(runner) as [(left, right)]:
        left.exclusive = True
        threads = [Thread(left.recv) for _ in range(5)]
        eventually(lambda: len(runner._waiting) == 5, "all to wait")
        for number in range(5):
            right.send(number)
        assert sorted(thread.done() for thread in threads) == [0, 1, 2, 3, 4]  # type: ignore[type-var]


def test_the_lead_goes_on_when_the_leaders_wait_is_met(runner):
    with cables(runner, 2) as [(left, right), (up, down)]:
        first = Thread(left.recv)
        eventually(lambda: runner.leader is not None and runner.leader.ident == first.ident, "the first to lead")
        second = Thread(up.recv)
        eventually(lambda: runner._followers, "the second to follow")
        time.sleep(0.005)
        right.send("out of the way")
        assert first.done() == "out of the way"
        eventually(lambda: runner.leader is not None and runner.leader.ident == second.ident, "the second to lead")
        down.send("done")
        assert second.done() == "done"


def test_the_lead_of_a_leader_that_stays_away_goes_to_a_follower(runner):
    # A short lead is not handed over, for its thread most often comes back; the background thread sees to it.
    with cables(runner, 2) as [(left, right), (up, down)]:
        stay_away = threading.Event()
        for _ in range(20):
            stay_away.clear()

            def short() -> None:
                left.recv()
                stay_away.wait(PATIENCE)

            first = Thread(short)
            eventually(lambda: waits(left), "the first to wait")
            second = Thread(up.recv)
            right.send("at once")
            up.loop.enter()
            Timer(up.loop.timers, lambda now: down.transmit("timer")).mod(up.loop.now)
            up.loop.leave()
            assert second.done() == "timer"
            stay_away.set()
            first.done()


def test_with_nobody_waiting_the_background_thread_leads(runner):
    with cables(runner) as [(left, right)]:
        fired = threading.Event()
        left.loop.enter()
        Timer(left.loop.timers, lambda now: fired.set()).mod(left.loop.now + 20_000_000)
        left.loop.leave()
        assert fired.wait(PATIENCE)
        # Work from a thread that is inside no stack, while the background thread sleeps.
        eventually(lambda: runner._asleep, "the background thread to sleep")
        right.ring.append("from outside")
        right.loop.schedule(right)
        eventually(lambda: right.got, "the background thread to receive")


def test_the_background_thread_gives_way(runner):
    with cables(runner) as [(left, right)]:
        eventually(lambda: runner.leader is not None and runner._asleep, "the background thread to lead")
        background = runner.leader
        waiting = Thread(left.recv)
        eventually(lambda: runner.leader is not None and runner.leader is not background, "it to give way")
        assert runner.leader is not None
        assert runner.leader.ident == waiting.ident
        right.send("x")
        waiting.done()


def test_calls_in_quick_succession_never_meet_the_background_thread(runner):
    with cables(runner) as [(left, right)]:

        def echo() -> None:
            for _ in range(300):
                right.send(right.recv())

        thread = Thread(echo)
        left.send(0)
        left.recv(PATIENCE)
        taken = 0
        for number in range(1, 300):
            left.send(number)
            left.recv(PATIENCE)
            taken += runner.leader is runner._background
        thread.done()
        # On a machine under load a moment may pass all the same.
        assert taken < 150


# -- devices


def test_a_device_wakes_a_waiting_thread(runner):
    loop = start(runner)
    device = Pipe(loop, runner)
    waiting = Thread(device.port.recv)
    eventually(lambda: waits(device.port), "the thread to wait")
    os.write(device.far, b"A")
    assert waiting.done() == ord("A")
    device.close()
    stop(loop)


def test_a_device_is_served_with_nobody_waiting(runner):
    loop = start(runner)
    device = Pipe(loop, runner)
    os.write(device.far, b"abc")
    eventually(lambda: len(device.port.got) == 3, "the device to be polled")
    device.close()
    stop(loop)


def test_a_device_is_not_starved_by_calls_that_never_sleep(runner):
    with cables(runner) as [(left, right)]:
        device = Pipe(left.loop, runner)
        os.write(device.far, b"x")

        def echo() -> None:
            message: object = 0
            while message is not None:
                message = right.recv()
                right.send(message)

        thread = Thread(echo)
        deadline = time.monotonic() + PATIENCE
        while not device.port.got:
            left.send(1)
            left.recv(PATIENCE)
            assert time.monotonic() < deadline, "the device was never polled"
        left.send(None)
        left.recv(PATIENCE)
        thread.done()
        device.close()


def test_writable_is_told_only_where_wanted(runner):
    loop = start(runner)
    near, far = os.pipe2(os.O_NONBLOCK)
    polled = threading.Event()

    class Writer(Napi):
        polls = 0

        def poll(self, budget: int) -> int:
            self.polls += 1
            runner.watch_writable(far, False)
            polled.set()
            return 0

    writer = Writer()
    runner.watch(far, loop, writer)
    time.sleep(0.05)
    assert writer.polls == 0
    runner.watch_writable(far, True)
    assert polled.wait(PATIENCE)
    runner.watch_writable(12345, True)
    runner.unwatch(far)
    runner.unwatch(far)
    os.close(near)
    os.close(far)
    stop(loop)


def test_by_edges_each_change_is_told_once_with_its_events(runner):
    loop = start(runner)
    near, far = socket.socketpair()

    class Edges(Napi):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[int] = []
            self.polls = 0

        def interrupt(self, mask: int) -> None:
            self.told.append(mask)

        def poll(self, budget: int) -> int:
            self.polls += 1
            return 0

    edges = Edges()
    far.send(b"x")
    runner.watch(near.fileno(), loop, edges, edge=True, quiet=True)
    time.sleep(0.05)
    assert not edges.told
    runner.watch_writable(near.fileno(), False)
    eventually(lambda: edges.polls == 1, "the first byte")
    time.sleep(0.05)
    # It stays readable, and is not told of again, but for what comes next.
    assert edges.told == [select.EPOLLIN]
    far.send(b"y")
    eventually(lambda: edges.polls == 2, "the second byte")
    runner.watch_writable(near.fileno(), True)
    eventually(lambda: edges.polls == 3, "what is so at this moment")
    assert edges.told[-1] == select.EPOLLIN | select.EPOLLOUT
    runner.watch_writable(near.fileno(), False)
    far.shutdown(socket.SHUT_WR)
    eventually(lambda: edges.told[-1] & select.EPOLLRDHUP, "the end")
    assert not edges.told[-1] & select.EPOLLHUP
    far.close()
    eventually(lambda: edges.told[-1] & select.EPOLLHUP, "hanging up")
    runner.unwatch(near.fileno())
    near.close()
    stop(loop)


def test_with_a_channel_the_background_thread_keeps_the_lead_between_calls(runner):
    near, far = socket.socketpair()
    with cables(runner) as [(left, right)]:
        runner.watch(near.fileno(), left.loop, Port(left.loop), edge=True)
        eventually(lambda: runner.leader is runner._background, "the background thread to lead")
        for _ in range(200):
            left.send("x")
            assert right.recv(PATIENCE) == "x"
            # Calls in quick succession don't take it away from it: nobody could have it in its place.
            assert runner.leader is runner._background
        runner.unwatch(near.fileno())
    near.close()
    far.close()


def test_a_device_that_is_closed_before_it_is_unwatched(runner):
    loop = start(runner)
    near, far = os.pipe2(os.O_NONBLOCK)
    runner.watch(near, loop, Port(loop))
    os.close(near)
    os.close(far)
    runner.unwatch(near)
    stop(loop)


# -- time


def test_an_earlier_timer_armed_by_another_thread_wakes_the_leader(runner):
    with cables(runner) as [(left, right)]:
        waiting = Thread(lambda: left.recv(PATIENCE * 3))
        eventually(lambda: runner._asleep and runner._wakes_at < NEVER, "the leader to sleep for long")
        right.loop.enter()
        Timer(right.loop.timers, lambda now: right.transmit("early")).mod(right.loop.now + 10_000_000)
        right.loop.leave()
        assert waiting.done() == "early"


def test_a_deadline_filed_while_the_leader_is_about_to_sleep_is_not_missed(runner):
    with cables(runner) as [(left, right)]:
        fired: list[int] = []
        stopping = threading.Event()

        def leads() -> None:
            while not stopping.is_set():
                try:
                    left.recv(0.003)
                except TimeoutError:
                    pass

        leader = Thread(leads)
        for _ in range(200):
            done = len(fired)
            right.loop.enter()
            Timer(right.loop.timers, fired.append).mod(right.loop.now + random.randrange(2_000_000))
            right.loop.leave()
            eventually(lambda done=done: len(fired) > done, "the timer")  # type: ignore[misc]
        stopping.set()
        leader.done()


@pytest.mark.parametrize("milliseconds", [0.3, 1, 2.5, 7, 15.4, 40])
@pytest.mark.parametrize("follower", [False, True])
def test_time_outs_are_never_early_and_about_a_millisecond_late(runner, milliseconds, follower):
    with cables(runner, 2) as [(left, _), (up, down)]:
        leader: Thread | None = None
        if follower:
            leader = Thread(up.recv)
            eventually(lambda: waits(up), "the leader to lead")
        late: list[float] = []
        while not late or min(late) > ON_TIME:
            begin = time.monotonic_ns()
            with pytest.raises(TimeoutError):
                left.recv(milliseconds / 1000)
            late.append((time.monotonic_ns() - begin) / 1e6 - milliseconds)
            assert late[-1] >= 0
            assert len(late) < TRIES
        if leader is not None:
            down.send("end")
            leader.done()


def test_timers_fire_in_time(runner):
    with cables(runner) as [(left, right)]:
        late: list[float] = []
        while not late or min(late) > ON_TIME:
            left.loop.enter()
            due = left.loop.now + 3_400_000

            def fire(now: int, due: int = due) -> None:
                late.append((time.monotonic_ns() - due) / 1e6)
                right.transmit("now")

            Timer(left.loop.timers, fire).mod(due)
            left.loop.leave()
            assert left.recv(PATIENCE) == "now"
            assert late[-1] >= 0
            assert len(late) < TRIES


def test_far_deadlines_do_not_pile_up(runner):
    # A timer of two hours behind timers that come and go all the time.
    loop = start(runner)
    loop.enter()
    far = Timer(loop.timers, lambda now: None)
    far.mod(loop.now + 7200_000_000_000)
    near = Timer(loop.timers, lambda now: None)
    loop.leave()
    for _ in range(400):
        loop.enter()
        near.mod(loop.now)
        loop.leave()
        runner._expire(time.monotonic_ns())
        runner._drain(10, False)
    assert len(runner._deadlines) <= 70
    assert len(loop.timers._heap) <= 70
    assert not near.pending
    stop(loop)


def test_a_time_out_of_a_month_can_be_slept(runner):
    with cables(runner) as [(left, right)]:
        waiting = Thread(lambda: left.recv(86_400 * 40))
        eventually(lambda: runner._asleep and runner._wakes_at < NEVER, "the leader to sleep")
        right.send("x")
        assert waiting.done() == "x"


def test_a_wait_on_several_queues(runner):
    loop = start(runner)
    queues = (WaitQueue(), WaitQueue())
    ready: list[str] = []

    def call() -> Blocking[str]:
        while not ready:
            yield Wait(queues, EPOLLIN, NEVER)
        return ready.pop()

    for queue in queues:
        waiting = Thread(lambda: loop.run_blocked(call()))
        eventually(lambda: all(queue.active for queue in queues), "it to wait")
        loop.enter()
        ready.append("x")
        queue.wake(EPOLLIN)
        loop.leave()
        assert waiting.done() == "x"
        assert not any(queue.active for queue in queues)
    stop(loop)


def test_the_descriptors_are_two(runner):
    targets = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert "anon_inode:[eventpoll]" in targets
    assert "anon_inode:[eventfd]" in targets
