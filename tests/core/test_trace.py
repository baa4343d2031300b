"""Tracepoints: found by name, told to those attached."""

from __future__ import annotations

import pytest

from usernet.core.trace import TRACEPOINTS, Trace, Tracepoint


def test_each_has_its_name():
    trace = Trace()
    for name in TRACEPOINTS:
        assert trace[name].name == name
        assert trace[name] is getattr(trace, name)
    assert {name for name in dir(trace) if isinstance(getattr(trace, name), Tracepoint)} == set(TRACEPOINTS)
    with pytest.raises(KeyError, match="no tracepoint named 'nothing'; there are: kfree_skb, "):
        trace["nothing"]


def test_attached_and_detached():
    point = Trace().kfree_skb
    seen: list[tuple[object, ...]] = []

    def probe(*args: object) -> None:
        seen.append(args)

    point.fire(1, 2)
    point.attach(probe)
    point.fire(3, 4)
    point.detach(probe)
    point.fire(5, 6)
    assert seen == [(3, 4)]


def test_a_probe_may_detach_itself_while_it_is_told():
    point = Trace().tcp_probe
    seen: list[str] = []

    def once() -> None:
        seen.append("once")
        point.detach(once)

    point.attach(once)
    point.attach(lambda: seen.append("always"))
    point.fire()
    point.fire()
    assert seen == ["once", "always", "always"]
