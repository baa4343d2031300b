"""Socket families: who makes a socket of a family."""

from __future__ import annotations

import errno
import random

import pytest

from usernet.core.clock import ManualClock
from usernet.net.families import Families, NetProtoFamily
from usernet.net.pernet import Net


class Inet(NetProtoFamily):
    family = 2

    def create(self, sock_type: int, protocol: int) -> tuple[int, int]:
        return sock_type, protocol


def test_by_number():
    families = Net("", ManualClock(), random.Random(1)).get(Families)
    families.register(Inet())
    assert families.create(2, 1, 6) == (1, 6)
    for absent in (0, 10, -1, 1000):
        with pytest.raises(OSError) as caught:
            families.create(absent, 1, 0)
        assert caught.value.errno == errno.EAFNOSUPPORT


def test_a_family_is_loaded_when_it_is_asked_for():
    families = Net("", ManualClock(), random.Random(1)).get(Families)
    loaded = []

    def load() -> None:
        loaded.append(2)
        families.register(Inet())

    families.on_request(2, load)
    assert families.table == {} and loaded == []
    assert families.create(2, 1, 6) == families.create(2, 1, 6) == (1, 6)
    assert loaded == [2]


def test_a_family_must_be_defined():
    with pytest.raises(NotImplementedError, match="must define create"):
        NetProtoFamily().create(1, 0)
