"""The routing table: the longest prefix, the smallest metric, and the same answers as a plain search gives."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.ip.fib import RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTN_THROW, FibRoute, FibTable
from usernet.sock.af_ops import RTN_UNICAST, RTN_UNREACHABLE


class Device:
    """All that a table knows of a device."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = f"eth{index}"


ONE = Device(1)
TWO = Device(2)


def quad(text: str) -> bytes:
    return bytes(int(part) for part in text.split("."))


def route(
    text: str, dev: Device | None = ONE, metric: int = 0, gateway: str = "", kind: int = RTN_UNICAST
) -> FibRoute:  # fmt: skip
    prefix, _, length = text.partition("/")
    return FibRoute(quad(prefix), int(length), kind, dev, quad(gateway) if gateway else None, metric)


@pytest.fixture
def table() -> FibTable:
    return FibTable(RT_TABLE_MAIN, 4)


def test_the_longest_prefix_wins(table: FibTable):
    routes = [route("0.0.0.0/0"), route("10.0.0.0/8"), route("10.1.0.0/16"), route("10.1.2.3/32")]
    for entry in routes:
        table.insert(entry)
    assert table.lookup(quad("192.0.2.1")) is routes[0]
    assert table.lookup(quad("10.9.9.9")) is routes[1]
    assert table.lookup(quad("10.1.9.9")) is routes[2]
    assert table.lookup(quad("10.1.2.3")) is routes[3]


def test_an_empty_table_has_no_route(table: FibTable):
    assert table.lookup(quad("10.0.0.1")) is None
    assert list(table) == [] and len(table) == 0


def test_the_smaller_metric_wins_whatever_the_order(table: FibTable):
    worse, better = route("10.0.0.0/8", metric=20), route("10.0.0.0/8", TWO, metric=10)
    table.insert(worse)
    table.insert(better)
    assert table.lookup(quad("10.0.0.1")) is better
    table.delete(better)
    assert better.dead
    assert table.lookup(quad("10.0.0.1")) is worse


def test_the_same_prefix_and_metric_is_refused_unless_it_replaces_or_follows(table: FibTable):
    first = route("10.0.0.0/8")
    table.insert(first)
    with pytest.raises(OSError) as caught:
        table.insert(route("10.0.0.0/8", TWO))
    assert caught.value.errno == errno.EEXIST
    second = route("10.0.0.0/8", TWO)
    table.insert(second, append=True)
    assert table.lookup(quad("10.0.0.1")) is first
    assert table.lookup(quad("10.0.0.1"), oif=2) is second
    with pytest.raises(OSError):
        table.insert(route("10.0.0.0/8", TWO), append=True)
    third = route("10.0.0.0/8", gateway="10.0.0.9")
    assert table.insert(third, replace=True) is first
    assert first.dead
    assert table.lookup(quad("10.0.0.1")) is third
    assert len(table) == 2


def test_a_route_by_another_device_is_passed_over(table: FibTable):
    table.insert(route("10.0.0.0/8", ONE))
    fallback = route("0.0.0.0/0", TWO)
    table.insert(fallback)
    assert table.lookup(quad("10.0.0.1"), oif=2) is fallback
    assert table.lookup(quad("10.0.0.1"), oif=3) is None


def test_a_destination_too_far_away_is_passed_over(table: FibTable):
    near = route("10.0.0.0/8")
    near.scope = RT_SCOPE_LINK
    far = route("10.0.0.0/16", gateway="10.9.9.9")
    table.insert(near)
    table.insert(far)
    assert table.lookup(quad("10.0.0.1"), 0, RT_SCOPE_UNIVERSE) is far
    assert table.lookup(quad("10.0.0.1"), 0, RT_SCOPE_LINK) is near


def test_a_kind_that_leads_nowhere_is_found_for_any_device(table: FibTable):
    wall = route("10.1.0.0/16", None, kind=RTN_UNREACHABLE)
    table.insert(route("10.0.0.0/8", TWO))
    table.insert(wall)
    assert table.lookup(quad("10.1.0.1"), oif=2) is wall


def test_throw_ends_the_search(table: FibTable):
    table.insert(route("0.0.0.0/0"))
    table.insert(route("10.0.0.0/8", None, kind=RTN_THROW))
    assert table.lookup(quad("10.0.0.1")) is None
    assert table.lookup(quad("11.0.0.1")) is not None


def test_flush_takes_out_what_it_is_told(table: FibTable):
    for text, dev in (("10.0.0.0/8", ONE), ("10.0.0.0/16", TWO), ("0.0.0.0/0", TWO)):
        table.insert(route(text, dev))
    assert table.flush(lambda entry: entry.dev is TWO) == 2
    assert [str(entry) for entry in table] == ["<FibRoute unicast 10.0.0.0/8 dev eth1 metric=0>"]


def test_find_gives_one_prefix_by_metric(table: FibTable):
    for metric in (30, 10, 20):
        table.insert(route("10.0.0.0/8", metric=metric))
    table.insert(route("10.0.0.0/9"))
    assert [entry.metric for entry in table.find(quad("10.0.0.0"), 8)] == [10, 20, 30]
    assert list(table.find(quad("11.0.0.0"), 8)) == []


def test_deleting_a_route_that_is_not_there_is_an_error(table: FibTable):
    table.insert(route("10.0.0.0/8"))
    with pytest.raises(KeyError):
        table.delete(route("10.0.0.0/8"))


def test_addresses_of_sixteen_bytes_work_alike():
    table = FibTable(RT_TABLE_MAIN, 16)
    entry = FibRoute(bytes.fromhex("20010db8") + bytes(12), 32, RTN_UNICAST, ONE, None, 0)
    table.insert(entry)
    assert table.lookup(bytes.fromhex("20010db8") + bytes(11) + b"\1") is entry
    assert table.lookup(bytes(16)) is None
    assert "2001:db8::/32" in repr(entry)


def test_a_large_table_costs_no_more_look_ups(table: FibTable):
    for number in range(20000):
        table.insert(FibRoute((number << 8).to_bytes(4, "big"), 24, RTN_UNICAST, ONE, None, 0))
    assert len(table) == 20000
    # One dict for each length in use is all that a lookup goes through.
    assert len(table._levels) == 1
    found = table.lookup((19999 << 8 | 7).to_bytes(4, "big"))
    assert found is not None and found.prefix == (19999 << 8).to_bytes(4, "big")


prefixes = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 3), st.sampled_from([ONE, TWO]))


@given(st.lists(prefixes, max_size=30), st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(0, 2), st.data())
def test_it_agrees_with_a_plain_search(
    entries: list[tuple[int, int, int, Device]], addresses: list[int], oif: int, data: st.DataObject
):  # fmt: skip
    table = FibTable(RT_TABLE_MAIN, 4)
    kept: list[FibRoute] = []
    for value, length, metric, dev in entries:
        bits = value >> (32 - length) << (32 - length) if length else 0
        entry = FibRoute(bits.to_bytes(4, "big"), length, RTN_UNICAST, dev, None, metric)
        try:
            table.insert(entry, append=True)
        except OSError:
            continue
        kept.append(entry)
    for entry in data.draw(st.lists(st.sampled_from(kept), unique=True)) if kept else []:
        table.delete(entry)
        kept.remove(entry)
    assert sorted(map(id, table)) == sorted(map(id, kept))
    addresses += [int.from_bytes(entry.prefix, "big") for entry in kept]
    for address in addresses:
        candidates = [
            (-entry.length, entry.metric, order, entry)
            for order, entry in enumerate(kept)
            if address >> (32 - entry.length) == int.from_bytes(entry.prefix, "big") >> (32 - entry.length)
            and oif in (0, entry.dev.index)
        ]
        expected = min(candidates, key=lambda item: item[:3])[3] if candidates else None
        assert table.lookup(address.to_bytes(4, "big"), oif) is expected
