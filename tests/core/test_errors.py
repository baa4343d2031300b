"""Errors: Linux's errno as the right subclass of OSError; and reports of what nobody is there to catch."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from usernet.core.errors import ReentryError, UnusableStackError, error, report


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ECONNREFUSED, ConnectionRefusedError),
        (errno.EAGAIN, BlockingIOError),
        (errno.EPIPE, BrokenPipeError),
        (errno.ETIMEDOUT, TimeoutError),
        (errno.EACCES, PermissionError),
        (errno.ENETUNREACH, OSError),
    ],
)
def test_the_errno_picks_the_class_and_the_text(code, kind):
    problem = error(code)
    assert type(problem) is kind
    assert problem.errno == code
    assert problem.strerror == os.strerror(code)


def test_a_text_of_its_own():
    assert str(error(errno.EINVAL, "port: expected 0 to 65535, not 65536")).endswith("not 65536")


def test_misuse_is_a_runtime_error():
    assert issubclass(UnusableStackError, RuntimeError)
    assert issubclass(ReentryError, RuntimeError)


def test_a_report_goes_to_the_hook_for_threads(monkeypatch):
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    problem = KeyError("lost")
    try:
        raise problem
    except KeyError as caught:
        report(caught)
    assert [(args.exc_type, args.exc_value, args.thread) for args in seen] == [
        (KeyError, problem, threading.current_thread())
    ]
    assert seen[0].exc_traceback is problem.__traceback__
