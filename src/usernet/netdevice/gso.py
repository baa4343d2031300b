"""Cutting a super-segment's payload into pieces, for the protocols that segment in software (Linux: skb_segment)."""

from __future__ import annotations

from usernet.core.iov import Payload
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKBuff


def cut_payload(skb: SKBuff, start: int, size: int) -> list[list[Payload]]:
    """Cut what is behind byte `start` of `head` into pieces of `size` bytes, the last perhaps shorter.

    Returns for each piece its parts, by reference: no payload byte is copied. One piece at least.
    """
    sources: list[Payload] = []
    if start < skb.tail:
        sources.append(memoryview(skb.head)[start : skb.tail])
    if skb.frags:
        sources += skb.frags
    pieces: list[list[Payload]] = []
    piece: list[Payload] = []
    room = size
    for source in sources:
        length = len(source)
        position = 0
        view = memoryview(source)
        while length - position >= room:
            following = position + room
            piece.append(source if position == 0 and following == length else view[position:following])
            pieces.append(piece)
            piece = []
            position = following
            room = size
        if position < length:
            piece.append(source if position == 0 else view[position:])
            room -= length - position
    if piece or not pieces:
        pieces.append(piece)
    return pieces


def new_segment(header: bytes, payload: list[Payload], size: int, csum_offset: int) -> SKBuff:
    """A segment of a transport: its `header`, CHECKSUM_PARTIAL with the field in it `csum_offset` bytes from its start,
    and the parts of its `payload`, `size` bytes in all."""
    segment = SKBuff(header)
    segment.frags = payload
    segment.len += size
    segment.data_len = size
    segment.truesize += size
    segment.transport_header = 0
    segment.ip_summed = CHECKSUM_PARTIAL
    segment.csum_start = 0
    segment.csum_offset = csum_offset
    return segment
