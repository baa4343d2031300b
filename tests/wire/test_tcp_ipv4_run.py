"""Frames judged many at once are judged as one by one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.netdevice.packets import tcp_packet
from usernet.netdevice.transmit import checksum_help
from usernet.wire import tcp
from usernet.wire.tcp_ipv4_run import Model

STAMP = b"\1\1\x08\x0a" + (77).to_bytes(4, "big") + (5).to_bytes(4, "big")
SIZE = 100


def frame_of(number: int, ident: int, seq: int, *, flags: int = tcp.ACK, size: int = SIZE, link: bool = True) -> bytes:
    skb = tcp_packet(
        bytes([number & 0xFF, 7]) * (size // 2) + b"\x55" * (size & 1), ident=ident & 0xFFFF, seq=seq & 0xFFFFFFFF,
        flags=flags, options=STAMP, link=link,
    )  # fmt: skip
    checksum_help(skb)
    return skb.tobytes()


def one_by_one(model: Model, frames: list[bytes], ident: int, step: int, seq: int, size: int) -> tuple[int, int]:
    """How many follow one another, and up to which of these the checksums are right."""
    count = right = 0
    for frame in frames:
        if not model.follows(frame, ident, seq):
            break
        if right == count and model.sums_up(frame, seq):
            right += 1
        count += 1
        ident = ident + step & 0xFFFF
        seq = seq + size & 0xFFFFFFFF
    return count, right


def at_once(
    model: Model, frames: list[bytes], payload: int, ident: int, step: int, seq: int, size: int, together: bool
) -> tuple[int, int]:
    """The same of many at once. Fewer than follow may be counted, so it is asked again behind these."""
    count = right = 0
    while count < len(frames):
        rest = frames[count:]
        headers = b"".join(frame[:payload] for frame in rest)
        found = model.followers(headers, len(rest), ident, step, seq, size)
        assert not model.pushed
        payloads = b"".join(frame[payload:] for frame in rest[:found])
        if right == count:
            right += model.sums(headers, payloads, found, seq, size, together)
        count += found
        if not found:
            break
        ident = ident + step * found & 0xFFFF
        seq = seq + size * found & 0xFFFFFFFF
    return count, right


damage = st.tuples(st.integers(0, 11), st.integers(0, 153), st.integers(1, 255))


@given(
    ident=st.integers(0, 0xFFFF), seq=st.integers(0, 0xFFFFFFFF), step=st.sampled_from([0, 1]),
    size=st.sampled_from([SIZE, SIZE + 1]), link=st.booleans(), damages=st.lists(damage, max_size=1),
    together=st.booleans(),
)  # fmt: skip
@example(0xFFFA, 5, 1, SIZE, True, [], True)
@example(9, 0xFFFFFF00, 1, SIZE, True, [], True)
@example(9, 0xFFFFFF00, 0, SIZE, True, [], False)
@example(9, 0xFFFFFF9C, 1, SIZE, False, [(8, 20, 255)], True)
@example(9, 5, 1, SIZE, True, [(3, 100, 1)], True)
def test_many_are_judged_as_one_by_one(
    ident: int, seq: int, step: int, size: int, link: bool, damages: list[tuple[int, int, int]], together: bool
) -> None:
    network = 14 if link else 0
    payload = network + 20 + 32
    model = Model(frame_of(0, ident - step, seq - size, size=size, link=link), network, payload)
    frames = [frame_of(i, ident + i * step, seq + i * size, size=size, link=link) for i in range(12)]
    for number, at, change in damages:
        frame = bytearray(frames[number])
        frame[at % len(frame)] ^= change
        frames[number] = bytes(frame)
    expected = one_by_one(model, frames, ident, step, seq, size)
    count, right = at_once(model, frames, payload, ident, step, seq, size, together)
    assert (count, right) == expected
    if not damages:
        assert count == right == 12


@pytest.mark.parametrize("at", range(12, 12 + 54))
def test_a_byte_that_differs_ends_the_run_or_the_sum(at: int) -> None:
    payload = 66
    model = Model(frame_of(0, 4, 1), 14, payload)
    frames = [frame_of(i, 5 + i, 101 + i * SIZE) for i in range(8)]
    for change in (1, 0x80, 0xFF):
        damaged = bytearray(frames[5])
        damaged[at] ^= change
        changed = [*frames[:5], bytes(damaged), *frames[6:]]
        count, right = at_once(model, changed, payload, 5, 1, 101, SIZE, True)
        assert right == 5
        assert count == (8 if at in (14 + 36, 14 + 37) else 5)


def test_the_last_one_may_be_pushed():
    payload = 66
    model = Model(frame_of(0, 4, 1), 14, payload)
    for last in (0, 4, 7):
        for together in (True, False):
            frames = [
                frame_of(i, 5 + i, 101 + i * SIZE, flags=tcp.ACK | tcp.PSH if i == last else tcp.ACK) for i in range(8)
            ]
            headers = b"".join(frame[:payload] for frame in frames)
            count = model.followers(headers, 8, 5, 1, 101, SIZE)
            assert (count, model.pushed) == (last + 1, True)
            payloads = b"".join(frame[payload:] for frame in frames[:count])
            assert model.sums(headers, payloads, count, 101, SIZE, together) == count
            wrong = payloads[:-1] + bytes([payloads[-1] ^ 1])
            assert model.sums(headers, wrong, count, 101, SIZE, together) == count - 1


def test_pushed_and_otherwise_different_does_not_follow():
    payload = 66
    model = Model(frame_of(0, 4, 1), 14, payload)
    frames = [frame_of(i, 5 + i, 101 + i * SIZE) for i in range(4)]
    frames[2] = frame_of(2, 5 + 2, 101 + 2 * SIZE + 1, flags=tcp.ACK | tcp.PSH)
    headers = b"".join(frame[:payload] for frame in frames)
    assert model.followers(headers, 4, 5, 1, 101, SIZE) == 2
    assert not model.pushed
