"""The socket buffer against plain bytes: whatever is done to it, it holds what a `bytes` would."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import (
    CHECKSUM_COMPLETE,
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    SKB_GSO_TCPV4,
    SKB_OVERHEAD,
    Drops,
    SKBuff,
)


def contents(skb: SKBuff) -> bytes:
    """The packet's bytes, found without any of its methods."""
    return skb.head[skb.data : skb.tail] + b"".join(bytes(frag) for frag in skb.frags or ())


def packet(linear: bytes, *frags: bytes, headroom: int = 0) -> SKBuff:
    skb = SKBuff(bytes(headroom) + linear, headroom)
    for frag in frags:
        skb.add_frag(frag)
    return skb


def test_empty():
    skb = SKBuff()
    assert (skb.len, skb.data_len, skb.headlen, skb.headroom, skb.truesize) == (0, 0, 0, 0, SKB_OVERHEAD)
    assert skb.tobytes() == b""
    assert skb.slice(0, 0) == []
    assert (skb.mac_header, skb.network_header, skb.transport_header, skb.csum_start) == (-1, -1, -1, -1)
    assert skb.ip_summed == CHECKSUM_NONE


def test_a_received_packet():
    skb = SKBuff(b"ethernet|ip|payload")
    skb.pull(9)
    skb.network_header = skb.data
    skb.pull(3)
    assert skb.tobytes() == b"payload"
    skb.push(12)
    assert skb.tobytes() == b"ethernet|ip|payload"
    assert skb.head[skb.network_header :].startswith(b"ip|")


def test_a_sent_packet():
    payload = bytes(1000)
    skb = SKBuff()
    skb.add_frag(payload)
    skb.push_header(b"TCP.")
    skb.transport_header = skb.csum_start = 0
    skb.push_header(b"IP..")
    skb.network_header = 0
    skb.push_header(b"ETH")
    skb.mac_header = 0
    assert skb.tobytes() == b"ETHIP..TCP." + payload
    assert skb.frags is not None
    assert skb.frags[0] is payload
    assert skb.head[skb.transport_header :] == b"TCP."
    assert skb.head[skb.csum_start :] == b"TCP."
    assert skb.head[skb.network_header :].startswith(b"IP..")
    assert skb.headlen == 11
    assert skb.truesize == SKB_OVERHEAD + 1000


def test_another_header_in_place_of_the_one_that_was_pulled():
    skb = SKBuff(b"old link|ip|payload")
    skb.mac_header = 0
    skb.pull(9)
    skb.network_header = 9
    skb.csum_start = 12
    skb.push_header(b"new|")
    assert skb.tobytes() == b"new|ip|payload"
    assert skb.network_header == 4
    assert skb.csum_start == 7
    assert skb.mac_header == -1
    with pytest.raises(ValueError, match=r"push\(1\) with 0 bytes of headroom"):
        skb.push(1)


def test_what_is_not_there():
    skb = packet(b"linear", b"fragment")
    with pytest.raises(ValueError, match=r"pull\(7\) of 6 linear bytes"):
        skb.pull(7)
    with pytest.raises(ValueError, match=r"pull_front\(15\) of 14 bytes"):
        skb.pull_front(15)
    with pytest.raises(ValueError, match="before the fragments"):
        skb.put(b"x")
    with pytest.raises(ValueError, match="needs an empty packet, this one has 14 bytes"):
        skb.reserve(1)
    assert not skb.may_pull(15)
    assert contents(skb) == b"linearfragment"


def test_reserve_then_put_then_push():
    skb = SKBuff()
    skb.reserve(20)
    assert (skb.headroom, skb.len) == (20, 0)
    skb.put(b"payload")
    skb.put(b"!")
    skb.push(20)
    assert skb.tobytes() == bytes(20) + b"payload!"


def test_store_leaves_those_who_share_the_old_alone():
    skb = packet(b"abcdef", b"ghi")
    clone = skb.clone()
    skb.store(2, b"XY")
    assert skb.tobytes() == b"abXYefghi"
    assert clone.tobytes() == b"abcdefghi"


def test_cow_makes_the_payload_a_fragment_by_reference():
    payload = bytes(range(256)) * 4
    skb = SKBuff(b"header" + payload)
    skb.add_frag(b"more")
    head = skb.head
    skb.cow(6)
    assert skb.head == b"header"
    assert skb.frags is not None
    assert skb.frags[0].obj is head  # type: ignore[union-attr]
    assert contents(skb) == b"header" + payload + b"more"
    assert skb.data_len == len(payload) + 4
    skb.cow(100)
    assert skb.headlen == 6


def test_trim_spoils_a_devices_sum_and_leaves_others():
    for summed, after in ((CHECKSUM_COMPLETE, CHECKSUM_NONE), (CHECKSUM_PARTIAL, CHECKSUM_PARTIAL)):
        skb = packet(b"header", b"payload")
        skb.ip_summed = summed
        skb.trim(13)
        assert skb.ip_summed == summed
        skb.trim(10)
        assert skb.ip_summed == after


def test_a_slice_of_much_is_a_view_of_little_a_copy():
    head = bytes(2000)
    skb = SKBuff(head)
    (part,) = skb.slice(100, 1900)
    assert part.obj is head  # type: ignore[union-attr]
    (part,) = skb.slice(100, 200)
    assert type(part) is bytes
    whole = bytes(600)
    skb = packet(b"head", whole)
    assert skb.slice(4, 604)[0] is whole


def test_a_clone_shares_bytes_and_what_is_known_of_them():
    skb = packet(b"headers", bytes(100))
    skb.mac_header, skb.network_header, skb.transport_header = 0, 2, 4
    skb.protocol, skb.pkt_type, skb.mark, skb.priority, skb.tstamp = 0x0800, 3, 7, 6, 99
    skb.ip_summed, skb.csum_start, skb.csum_offset = CHECKSUM_PARTIAL, 4, 16
    skb.gso_size, skb.gso_type, skb.gso_segs = 50, SKB_GSO_TCPV4, 2
    skb.dev = skb.dst = object()
    skb.sk = object()
    skb.destructor = lambda packet: pytest.fail("a clone is charged to nobody")
    clone = skb.clone()
    same = [
        "head", "data", "tail", "len", "data_len", "frags", "mac_header", "network_header", "transport_header", "dev",
        "dst", "protocol", "pkt_type", "ip_summed", "csum_start", "csum_offset", "gso_size", "gso_type", "gso_segs",
        "truesize", "tstamp", "mark", "priority",
    ]  # fmt: skip
    for name in same:
        assert getattr(clone, name) == getattr(skb, name), name
    assert clone.head is skb.head
    assert clone.frags is not skb.frags
    assert (clone.sk, clone.destructor, clone.queue, clone.next, clone.prev) == (None,) * 5
    clone.consume()


def test_a_clones_sum_comes_along():
    skb = SKBuff(b"x")
    skb.ip_summed, skb.csum = CHECKSUM_COMPLETE, 0x1234
    assert skb.clone().csum == 0x1234


def test_what_is_done_to_a_clone_is_not_done_to_the_packet():
    skb = packet(b"headers", b"one", b"two")
    clone = skb.clone()
    clone.pull_front(8)
    clone.trim(3)
    clone.add_frag(b"!")
    clone.push_header(b"new")
    assert contents(clone) == b"newnet!"
    assert contents(skb) == b"headersonetwo"


def test_the_destructor_is_called_once():
    calls: list[SKBuff] = []
    drops = Drops([])
    ways = [SKBuff.consume, SKBuff.orphan, lambda skb: skb.drop(DropReason.NO_SOCKET, drops)]
    for way in ways:
        skb = SKBuff(b"x")
        skb.sk = object()
        skb.destructor = calls.append
        calls.clear()
        way(skb)
        way(skb)
        skb.consume()
        assert calls == [skb]
    skb = SKBuff()
    skb.sk = object()
    skb.orphan()
    assert skb.sk is None


def test_drops_are_counted_and_shown():
    shown: list[tuple[SKBuff, DropReason]] = []
    probes = [lambda skb, reason: shown.append((skb, reason))]
    drops = Drops(probes)
    one, other = SKBuff(b"1"), SKBuff(b"2")
    one.drop(DropReason.IP_CSUM, drops)
    other.drop(DropReason.IP_CSUM, drops)
    other.drop(DropReason.NO_SOCKET, drops)
    assert drops.counts == {DropReason.IP_CSUM: 2, DropReason.NO_SOCKET: 1}
    assert shown == [(one, DropReason.IP_CSUM), (other, DropReason.IP_CSUM), (other, DropReason.NO_SOCKET)]


def test_it_says_what_it_is():
    skb = packet(b"abc", b"de")
    skb.protocol = 0x0800
    assert repr(skb) == "<SKBuff len=5 data_len=2 protocol=0x0800>"
    skb.gso_size, skb.gso_segs = 2, 3
    assert repr(skb).endswith(" gso=3x2>")


class AgainstBytes(RuleBasedStateMachine):
    """Any row of operations, against a plain `bytes` and the positions of headers in it."""

    @initialize(
        linear=st.binary(max_size=40), headroom=st.integers(0, 10), frags=st.lists(st.binary(max_size=700), max_size=3)
    )
    def start(self, linear: bytes, headroom: int, frags: list[bytes]) -> None:
        self.skb = packet(linear, *frags, headroom=headroom)
        self.room = bytes(headroom)
        self.bytes = linear + b"".join(frags)
        self.linear = len(linear)
        self.others: list[tuple[SKBuff, bytes]] = []

    @rule(size=st.integers(0, 60))
    def pull(self, size: int) -> None:
        if size > self.linear:
            with pytest.raises(ValueError):
                self.skb.pull(size)
            return
        self.skb.pull(size)
        self.room += self.bytes[:size]
        self.bytes = self.bytes[size:]
        self.linear -= size

    @rule(size=st.integers(0, 30))
    def push(self, size: int) -> None:
        if size > len(self.room):
            with pytest.raises(ValueError):
                self.skb.push(size)
            return
        self.skb.push(size)
        if size:
            self.bytes = self.room[-size:] + self.bytes
            self.room = self.room[:-size]
        self.linear += size

    @rule(header=st.binary(max_size=20))
    def push_header(self, header: bytes) -> None:
        self.skb.push_header(header)
        self.bytes = header + self.bytes
        self.linear += len(header)
        self.room = b""

    @rule(payload=st.binary(max_size=20))
    def put(self, payload: bytes) -> None:
        if self.skb.data_len:
            with pytest.raises(ValueError):
                self.skb.put(payload)
            return
        self.skb.put(payload)
        self.bytes += payload
        self.linear += len(payload)

    @rule(payload=st.binary(max_size=700), view=st.booleans())
    def add_frag(self, payload: bytes, view: bool) -> None:
        self.skb.add_frag(memoryview(payload) if view else payload)
        self.bytes += payload

    @rule(length=st.integers(0, 800))
    def trim(self, length: int) -> None:
        self.skb.trim(length)
        self.bytes = self.bytes[:length]
        self.linear = min(self.linear, length)

    @rule(size=st.integers(0, 800))
    def pull_front(self, size: int) -> None:
        if size > len(self.bytes):
            with pytest.raises(ValueError):
                self.skb.pull_front(size)
            return
        self.skb.pull_front(size)
        self.room += self.bytes[: min(size, self.linear)]
        self.bytes = self.bytes[size:]
        self.linear = max(self.linear - size, 0)

    @rule(size=st.integers(0, 800))
    def may_pull(self, size: int) -> None:
        assert self.skb.may_pull(size) == (size <= len(self.bytes))
        if size <= len(self.bytes):
            self.linear = max(self.linear, size)

    @rule(headers=st.integers(0, 40))
    def cow(self, headers: int) -> None:
        self.skb.cow(headers)
        self.linear = min(self.linear, headers)

    @precondition(lambda self: self.linear >= 2)
    @rule(where=st.integers(0, 40), value=st.binary(min_size=1, max_size=2))
    def store(self, where: int, value: bytes) -> None:
        where = min(where, self.linear - len(value))
        self.skb.store(self.skb.data + where, value)
        self.bytes = self.bytes[:where] + value + self.bytes[where + len(value) :]

    @rule()
    def clone(self) -> None:
        self.others.append((self.skb.clone(), self.bytes))

    @rule()
    def go_on_with_the_clone(self) -> None:
        clone = self.skb.clone()
        self.others.append((self.skb, self.bytes))
        self.skb = clone

    @rule(first=st.integers(0, 800), length=st.integers(0, 800))
    def slice(self, first: int, length: int) -> None:
        end = min(first + length, len(self.bytes))
        assert b"".join(map(bytes, self.skb.slice(first, end))) == self.bytes[first:end]
        assert self.skb.tobytes(min(first, len(self.bytes))) == self.bytes[first:]

    @invariant()
    def it_holds_the_bytes(self) -> None:
        if not hasattr(self, "skb"):
            return
        skb = self.skb
        assert contents(skb) == self.bytes == skb.tobytes()
        assert skb.len == len(self.bytes)
        assert skb.headlen == self.linear == skb.tail - skb.data
        assert skb.data_len == sum(map(len, skb.frags or ()))
        assert skb.headroom == len(self.room)
        assert skb.head[: skb.data] == self.room
        for other, whole in self.others:
            assert contents(other) == whole


TestAgainstBytes = AgainstBytes.TestCase
TestAgainstBytes.settings = settings(stateful_step_count=30)


@given(
    st.integers(0, 60), st.integers(0, 60), st.lists(st.binary(max_size=30), min_size=1, max_size=4), st.integers(0, 3)
)
def test_header_offsets_keep_pointing_at_their_bytes(pulled, marked, headers, which):
    name = ("mac_header", "network_header", "transport_header", "csum_start")[which]
    head = bytes(range(61))
    skb = SKBuff(head)
    skb.pull(pulled)
    setattr(skb, name, marked)
    for header in headers:
        skb.push_header(header)
    offset = getattr(skb, name)
    if marked >= pulled:
        assert skb.head[offset] == head[marked]
    else:
        assert offset == -1
