"""Acknowledgements of one poll: the last of each flow goes up, whether a train takes them or not."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.ip.v4.test_train import frame_of, received
from tests.netdevice.packets import tcp_packet
from usernet.netdevice.gro import MAX_GRO_FLOWS
from usernet.wire import tcp


def frame(ack: int, sport: int = 1000, value: int = 1, offload: bool = True, **kwargs) -> bytes:
    options = b"\1\1\x08\x0a" + value.to_bytes(4, "big") + bytes(4)
    return frame_of(tcp_packet(ack=ack, sport=sport, **{"options": options, **kwargs}), offload)


def numbers(frames: list[bytes], offload: bool = True) -> tuple[list[tuple[int, int]], int]:
    """Of what went up, source port and acknowledgement; and how many frames a train took."""
    up, _, taken = received(frames, True, offload)
    return [tcp.parse(shown[0], 34 - 14)[0:4:3] for shown in up], taken


def test_flows_may_alternate():
    for offload in (True, False):
        frames = [frame(ack, sport, offload=offload) for ack in (100, 200, 300) for sport in (1000, 1001, 1002)]
        up, taken = numbers(frames, offload)
        assert up == [(1000, 300), (1001, 300), (1002, 300)]
        assert taken == 6


def test_what_is_no_acknowledgement_stays_behind_them():
    data = frame_of(tcp_packet(b"x" * 200, ack=400), True)
    up, _ = numbers([frame(100), frame(200, 1001), frame(300), data, frame(500)])
    assert up == [(1000, 300), (1001, 200), (1000, 400), (1000, 500)]


def test_the_oldest_goes_up_where_there_are_too_many():
    up, _ = numbers([frame(100, 1000 + n) for n in range(MAX_GRO_FLOWS + 1)] + [frame(200, 1000), frame(200, 1001)])
    assert up[0] == (1000, 100)
    assert (1000, 200) in up
    assert (1001, 100) in up[:2]


_change = st.fixed_dictionaries(
    {},
    optional={
        "ack": st.sampled_from([1, 50, 0xFFFFFFF0]),
        "value": st.sampled_from([0, 2, 3]),
        "sport": st.sampled_from([1000, 1001, 1002]),
        "window": st.sampled_from([499, 501]),
        "flags": st.sampled_from([tcp.ACK | tcp.ECE, tcp.ACK | tcp.FIN, tcp.SYN | tcp.ACK]),
        "seq": st.sampled_from([1, 2]),
        "ttl": st.sampled_from([63, 64]),
        "tos": st.sampled_from([0, 3]),
        "options": st.sampled_from([b"", bytes(12), b"\1\1\5\x0a" + bytes(8)]),
        "damage": st.integers(14, 63),
        "payload": st.sampled_from([b"x", bytes(200)]),
    },
)  # fmt: skip


@given(st.lists(st.one_of(st.just({}), st.just({"sport": 1001}), _change), max_size=14), st.booleans())
@example([{}, {}, {"damage": 20}, {}], False)
@example([{}, {"ack": 0xFFFFFFF0}, {"ack": 0xFFFFFFF0}, {}], True)
def test_the_train_makes_no_difference(changes, offload):
    frames = []
    for number, change in enumerate(changes):
        change = {"ack": 100 + number, **change}
        damage = change.pop("damage", 0)
        payload = change.pop("payload", b"")
        value = change.pop("value", 1)
        options = b"\1\1\x08\x0a" + value.to_bytes(4, "big") + bytes(4)
        made = bytearray(frame_of(tcp_packet(payload, **{"options": options, **change}), offload))
        if damage:
            made[(10 if offload else 0) + damage % (len(made) - 10)] ^= 0x10
        frames.append(bytes(made))
    with_trains, counted, _ = received(frames, True, offload)
    without, expected, _ = received(frames, False, offload)
    assert with_trains == without
    assert counted == expected
