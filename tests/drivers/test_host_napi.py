"""When the host's thread for an interface is asked for, on a directory that stands for the one in sysfs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from usernet.drivers.host_napi import BUSY, HOLD, INTERVAL, THREADED, HostNapi

MS = 1_000_000


class Interface:
    """An interface whose traffic is told to its HostNapi, from the time and the count of bytes that it begins with."""

    def __init__(self, directory: Path, threaded: bool | None = None) -> None:
        self.attribute = directory / THREADED
        self.attribute.write_text("0")
        self.napi = HostNapi(os.open(directory, os.O_PATH), False, threaded)
        self.napi.start()
        self.now = 7 * MS
        self.moved = 1000
        self.napi.begin(self.now, self.moved)

    def move(self, rate: float, duration: int = INTERVAL) -> bool:
        """`duration` ns at `rate` Mbit/s, then a look; whether the host has a thread for it now."""
        self.now += duration
        self.moved += round(rate * duration / 8_000)
        self.napi.look(self.now, self.moved)
        assert self.napi.threaded == (self.attribute.read_text() == "1")
        return self.napi.threaded


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
def interface(tmp_path: Path) -> Iterator[Interface]:
    found = Interface(tmp_path)
    yield found
    found.napi.close()
    found.napi.close()


def test_the_thread_comes_with_the_rate_and_goes_with_it(interface):
    assert not interface.move(BUSY - 1)
    assert interface.move(BUSY + 1)
    assert interface.move(BUSY // 2 + 1, HOLD)
    assert not interface.move(BUSY // 2 - 1)
    assert not interface.move(BUSY // 2 + 1)


def test_it_is_kept_for_a_while(interface):
    interface.move(BUSY + 1)
    assert interface.move(0, HOLD - 1)
    assert not interface.move(0)


def test_a_rate_is_taken_over_a_while(interface):
    assert not interface.move(100 * BUSY, INTERVAL - 1)
    assert interface.move(0, 1)


def test_what_was_moved_before_it_was_opened_does_not_count(interface):
    interface.moved += 1 << 30
    interface.now += 60 * INTERVAL
    interface.napi.begin(interface.now, interface.moved)
    assert not interface.move(1)


def test_an_interface_at_rest_has_no_thread(interface):
    interface.move(BUSY + 1)
    interface.napi.rest()
    assert interface.attribute.read_text() == "0"
    assert interface.move(BUSY + 1)


def test_where_the_host_says_no_it_stays_as_it_is(interface):
    interface.move(BUSY + 1)
    hidden = interface.attribute.rename(interface.attribute.with_name("hidden"))
    interface.now += HOLD
    interface.napi.look(interface.now, interface.moved)
    hidden.rename(interface.attribute)
    interface.now += HOLD
    interface.napi.look(interface.now, interface.moved)
    interface.napi.rest()
    assert interface.attribute.read_text() == "1"


@pytest.mark.parametrize("threaded", [False, True])
def test_where_it_was_told_it_stays_so_too(tmp_path, threaded):
    interface = Interface(tmp_path, threaded)
    for rate in (BUSY * 2, 0):
        assert interface.move(rate, HOLD) is threaded
    interface.napi.rest()
    assert interface.move(1, HOLD) is threaded
    interface.napi.close()


def test_a_host_with_one_core_has_no_other_for_the_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    interface = Interface(tmp_path)
    assert not interface.move(BUSY * 2)
    interface.napi.close()
