"""Errors towards the user of a socket: `OSError` with Linux's errno; and those that nobody is there to catch.

`OSError(errno, text)` picks the subclass by itself (ConnectionRefusedError, BlockingIOError, …), so one constructor
serves every call.
"""

from __future__ import annotations

import os
import threading

from usernet.core.native import mypyc_attr


def error(code: int, message: str = "") -> OSError:
    """An `OSError` of the right subclass.

    code: a positive errno value, such as `errno.ECONNREFUSED`.
    message: what was wrong and what was expected; the system's own text for the code where empty.
    """
    return OSError(code, message or os.strerror(code))


def check_type(what: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raises TypeError, which names the argument `what` and says what was `expected`, for a `value` not of `kind`.

    For what people give: deeper down a wrong type would show as something else.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected {expected}, not {value!r}")


def report(problem: BaseException) -> None:
    """Tell of an exception that a timer, a poll or a callback let out, by `threading.excepthook`.

    It belongs to none of the calls that happen to be made at that moment, so it is raised in none; the stack goes on.
    """
    threading.excepthook(
        threading.ExceptHookArgs((type(problem), problem, problem.__traceback__, threading.current_thread()))
    )


@mypyc_attr(native_class=False)
class UnusableStackError(RuntimeError):
    """The stack can't carry out a call: it is closed, nothing drives it, or it is the copy in a forked child."""


@mypyc_attr(native_class=False)
class ReentryError(RuntimeError):
    """Code that runs inside a stack (a signal handler, a probe) called that stack, or another one."""
