"""Signals: put off while the main thread is inside, never lost, and the user's handlers put back in the end."""

from __future__ import annotations

import asyncio
import importlib
import signal
import threading
from collections.abc import Iterator

import pytest

from usernet.core.interrupts import SCAN_EVERY, DeferredHandler, InterruptGuard

ONE, OTHER = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture
def log() -> Iterator[list[int]]:
    """Handlers of two signals that write down what they are told."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda signum, frame: seen.append(signum)) for number in (ONE, OTHER)}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def guard(log) -> Iterator[InterruptGuard]:
    made = InterruptGuard()
    made.install()
    yield made
    made.uninstall()


def test_outside_a_handler_runs_at_once(guard, log):
    signal.raise_signal(ONE)
    assert log == [ONE]
    assert not guard.inside


def test_inside_it_waits_until_the_last_one_has_left(guard, log):
    guard.hold()
    guard.hold()
    assert guard.inside
    signal.raise_signal(ONE)
    signal.raise_signal(OTHER)
    guard.let_go()
    assert log == []
    guard.let_go()
    assert log == [ONE, OTHER]
    assert not guard.pending


def test_one_that_comes_again_meanwhile_is_one(guard, log):
    guard.hold()
    for _ in range(5):
        signal.raise_signal(ONE)
    guard.let_go()
    assert log == [ONE]


def test_a_handler_that_raises_keeps_no_other_from_running(log):
    def raising(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(ONE, raising)
    guard = InterruptGuard()
    guard.install()
    try:
        guard.hold()
        signal.raise_signal(ONE)
        signal.raise_signal(OTHER)
        with pytest.raises(KeyboardInterrupt):
            guard.let_go()
        assert log == [OTHER]
        assert guard.depth == 0
    finally:
        guard.uninstall()


def test_a_handler_that_runs_late_may_be_interrupted_itself(guard, log):
    inside: list[bool] = []

    def interrupted(signum: int, frame: object) -> None:
        inside.append(guard.inside)
        signal.raise_signal(OTHER)

    signal.signal(ONE, interrupted)
    guard.install()
    guard.hold()
    signal.raise_signal(ONE)
    guard.let_go()
    assert inside == [False]
    assert log == [OTHER]


def test_who_sleeps_is_woken(guard, log):
    woken: list[bool] = []
    guard.wakeup = lambda: woken.append(True)
    guard.hold()
    signal.raise_signal(ONE)
    assert woken == [True]
    guard.let_go()


def test_handlers_are_put_back():
    def mine(signum: int, frame: object) -> None:
        pass

    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    was = signal.signal(ONE, mine)
    guard = InterruptGuard()
    guard.install()
    wrapped = guard.installed(ONE)
    assert isinstance(wrapped, DeferredHandler)
    assert wrapped.handler is mine
    assert isinstance(guard.installed(signal.SIGINT), DeferredHandler)
    guard.install()
    assert guard.installed(ONE) is wrapped
    assert signal.getsignal(ONE) is mine
    guard.uninstall()
    assert signal.getsignal(ONE) is mine
    assert guard.installed(ONE) is mine
    signal.signal(ONE, was)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_defaults_and_ignored_signals_are_left_alone(guard):
    was = signal.signal(ONE, signal.SIG_IGN)
    guard.install()
    assert guard.installed(ONE) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(ONE, was)


def test_a_handler_set_later_is_wrapped_at_once(guard, log):
    def later(signum: int, frame: object) -> None:
        log.append(-signum)

    before = signal.getsignal(ONE)
    assert signal.signal(ONE, later) is before  # as it was set, not as it was wrapped
    assert isinstance(guard.installed(ONE), DeferredHandler)
    assert signal.getsignal(ONE) is later
    guard.hold()
    signal.raise_signal(ONE)
    assert log == []
    guard.let_go()
    assert log == [-ONE]
    assert signal.signal(ONE, signal.SIG_IGN) is later
    assert guard.installed(ONE) == signal.SIG_IGN


def test_wrong_handlers_are_refused_as_ever(guard):
    with pytest.raises(TypeError, match="signal handler must be"):
        signal.signal(ONE, "no handler")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="signal number out of range"):
        signal.signal(1000, signal.SIG_IGN)
    with pytest.raises(ValueError, match="signal number out of range"):
        signal.getsignal(1000)


def test_asyncio_takes_sigint_over_and_gives_it_back():
    """It does so where the handler is the default one: a wrapper that could be seen would keep it from that."""
    guard = InterruptGuard()
    guard.install()
    try:

        async def main() -> object:
            return signal.getsignal(signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert asyncio.run(main()) is not signal.default_int_handler
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)
    finally:
        guard.uninstall()


def test_a_handler_set_past_us_is_found_by_the_scan(log):
    past = importlib.import_module("_signal").signal
    guard = InterruptGuard()
    guard.install()
    past(ONE, lambda signum, frame: log.append(-signum))
    assert not isinstance(guard.installed(ONE), DeferredHandler)
    guard.scan(1000)
    assert isinstance(guard.installed(ONE), DeferredHandler)
    assert guard.next_scan == 1000 + SCAN_EVERY
    signal.raise_signal(ONE)
    assert log == [-ONE]
    guard.uninstall()


def test_it_ends_with_the_last_user(log):
    guard = InterruptGuard()
    before = importlib.import_module("_signal").signal
    guard.add(1)
    guard.add(2)
    guard.remove(1)
    guard.remove(1)
    assert isinstance(guard.installed(ONE), DeferredHandler)
    guard.remove(2)
    assert not isinstance(guard.installed(ONE), DeferredHandler)
    assert importlib.import_module("_signal").signal is before


def test_a_user_who_chains_to_our_wrapper_gets_his_own_back(log):
    guard = InterruptGuard()
    guard.install()
    old = signal.getsignal(ONE)
    assert callable(old)
    signal.signal(ONE, lambda signum, frame: old(signum, frame))
    guard.scan(0)
    guard.hold()
    signal.raise_signal(ONE)
    assert log == []
    guard.let_go()
    assert log == [ONE]
    signal.signal(ONE, old)
    guard.uninstall()
    assert not isinstance(guard.installed(ONE), DeferredHandler)
    signal.raise_signal(ONE)
    assert log == [ONE, ONE]


def test_another_thread_leaves_it_to_the_main_one(log):
    guard = InterruptGuard()

    def elsewhere() -> None:
        guard.install()
        guard.hold()
        guard.let_go()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert guard.depth == 0
    assert not isinstance(guard.installed(ONE), DeferredHandler)
    assert guard.next_scan == 0
    guard.scan(0)
    assert isinstance(guard.installed(ONE), DeferredHandler)
    thread = threading.Thread(target=guard.uninstall)
    thread.start()
    thread.join()
    signal.raise_signal(ONE)
    assert log == [ONE]
    guard.uninstall()
    assert not isinstance(guard.installed(ONE), DeferredHandler)


def test_a_forked_child_starts_anew(guard):
    guard.hold()
    signal.raise_signal(ONE)
    guard.forked(guard.main, inside=False)
    assert guard.depth == 1  # the same thread goes on where it was
    guard.let_go()
    guard.hold()
    guard.forked(12345, inside=True)
    assert (guard.main, guard.depth, guard.pending, guard.wakeup) == (12345, 1, [], None)
    guard.main = threading.get_ident()
    guard.depth = 0
