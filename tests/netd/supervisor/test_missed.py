"""Answers that nobody heard."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from usernet.netd.supervisor import missed
from usernet.netd.supervisor.missed import KEPT, Missed


def call(tid: int = 1, nr: int = 42, args: tuple[int, ...] = (3, 4, 5, 0, 0, 0)) -> Any:
    return SimpleNamespace(tid=tid, nr=nr, args=args)


def test_the_same_call_gets_it_once():
    answers = Missed()
    answers.add(call(), b"name", 7, 0)
    assert answers.some
    assert answers.take(call(), b"name") == 7
    assert not answers.some
    assert answers.take(call(), b"name") is None


def test_an_errno_is_raised():
    answers = Missed()
    answers.add(call(), b"", -1, errno.EINPROGRESS)
    with pytest.raises(BlockingIOError):
        answers.take(call(), b"")


@pytest.mark.parametrize("other", [call(tid=2), call(nr=43), call(args=(3, 4, 6, 0, 0, 0))])
def test_another_call_does_not_get_it(other: Any):
    answers = Missed()
    answers.add(call(), b"", 7, 0)
    assert answers.take(other, b"") is None
    assert answers.take(call(), b"") == 7


def test_other_content_does_not_get_it():
    answers = Missed()
    answers.add(call(), b"one", 7, 0)
    assert answers.take(call(), b"two") is None
    assert answers.take(call(), b"one") is None


def test_it_is_kept_for_a_moment(monkeypatch: pytest.MonkeyPatch):
    answers = Missed()
    monkeypatch.setattr(missed, "SOON", -1.0)
    answers.add(call(), b"", 7, 0)
    assert answers.take(call(), b"") is None


def test_they_are_bounded():
    answers = Missed()
    for tid in range(KEPT + 10):
        answers.add(call(tid), b"", tid, 0)
    assert answers.take(call(9), b"") is None
    assert answers.take(call(10), b"") == 10
