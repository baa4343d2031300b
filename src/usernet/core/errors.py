"""Errors towards the user of a socket: `OSError` with Linux's errno.

`OSError(errno, text)` picks the subclass by itself (ConnectionRefusedError, BlockingIOError, …), so one constructor
serves every call.
"""

from __future__ import annotations

import os


def error(code: int, message: str = "") -> OSError:
    """An `OSError` of the right subclass.

    code: a positive errno value, such as `errno.ECONNREFUSED`.
    message: what was wrong and what was expected; the system's own text for the code where empty.
    """
    return OSError(code, message or os.strerror(code))


class UnusableStackError(RuntimeError):
    """The stack can't carry out a call: it is closed, nothing drives it, or it is the copy in a forked child."""


class ReentryError(RuntimeError):
    """Code that runs inside the stack (a signal handler, a tracer) called the same stack again."""
