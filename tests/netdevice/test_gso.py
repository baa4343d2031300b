from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usernet.netdevice.gso import cut_payload, new_segment
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKBuff

from .packets import tcp_packet


@given(st.binary(max_size=40), st.lists(st.binary(min_size=1, max_size=60), max_size=6), st.integers(1, 50))
def test_pieces_are_the_payload_in_order_and_of_the_size_asked_for(linear, frags, size):
    skb = SKBuff(b"header" + linear)
    for frag in frags:
        skb.add_frag(frag)
    pieces = cut_payload(skb, 6, size)
    whole = linear + b"".join(frags)
    assert b"".join(b"".join(piece) for piece in pieces) == whole
    lengths = [sum(map(len, piece)) for piece in pieces]
    assert len(pieces) == max(1, -(-len(whole) // size))
    assert all(length == size for length in lengths[:-1])
    assert lengths[-1] == len(whole) - size * (len(pieces) - 1)


def test_a_fragment_that_is_one_piece_is_passed_on_itself():
    skb = tcp_packet([b"a" * 100, b"b" * 100])
    assert [piece[0] is frag for piece, frag in zip(cut_payload(skb, skb.tail, 100), skb.frags or (), strict=True)] == [
        True,
        True,
    ]


def test_a_segment_is_to_be_completed_by_who_sends_it():
    segment = new_segment(b"h" * 20, [b"abc"], 3, 16)
    assert (segment.len, segment.data_len, segment.tail) == (23, 3, 20)
    assert (segment.ip_summed, segment.csum_start, segment.csum_offset) == (CHECKSUM_PARTIAL, 0, 16)
    assert segment.tobytes() == b"h" * 20 + b"abc"
