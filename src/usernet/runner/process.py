"""The runner of a process: one for all its stacks, made when the first is started, and dead after fork."""

from __future__ import annotations

import os
import threading

from usernet.core.loop import ENTERED, INTERRUPTS
from usernet.runner.runner import Runner

_runners: list[Runner] = []
_runners_lock = threading.Lock()


def process_runner() -> Runner:
    """The runner of this process, made on first use."""
    with _runners_lock:
        if not _runners:
            _runners.append(Runner())
        return _runners[0]


def close_process_runner() -> None:
    """End the runner's thread and close its descriptors, where no stack is started; the next start makes a new one."""
    with _runners_lock:
        if _runners and not _runners[0].loops:
            _runners.pop().close()


def _after_fork_in_child() -> None:
    """The child's copies of the stacks are dead: their devices belong to the parent. Only this thread is left."""
    global _runners_lock
    _runners_lock = threading.Lock()
    ident = threading.get_ident()
    inside = ENTERED.get(ident)
    ENTERED.clear()
    if inside is not None:
        ENTERED[ident] = inside
    INTERRUPTS.forked(ident, inside is not None)
    for runner in _runners:
        runner.abandon()
    _runners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
