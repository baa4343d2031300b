"""Whole frames of one TCP flow over IPv4: many at once, each told from the one before by a few numbers.

The segments of a super-segment differ in total length, identification, sequence number, flags and both checksums, and
so do those of bulk data that arrive one after the other; all else, some fifty bytes from the link header to the
options, is the same. So it is not built, and not looked at, field by field: `split` makes the frames of a super-segment
from its first headers, and `Model` tells whether a frame is the next of a run. What protocols decide (which packets may
be merged or split, and what that means) is above: ip/v4/frames, ip/v4/train.

    0     network                                        transport                               payload
    | link | ver_ihl tos | tot_len ident | frag_off ttl protocol | check | saddr daddr | sport dport | seq | ack …
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.compiled import COMPILED
from usernet.wire.checksum import csum, csum_fold, pseudo_sum, words
from usernet.wire.ipv4 import IP_HLEN
from usernet.wire.ipv4 import parse as _parse_ip
from usernet.wire.tcp import FIN, PSH, TCP_CHECK_OFFSET, TCP_HLEN
from usernet.wire.tcp import parse as _parse_tcp

if TYPE_CHECKING:
    from usernet.core.native import i64

IPPROTO_TCP: Final = 6
SIMPLE: Final = 0x4500
"""The first word of an IPv4 header without options, but for its traffic class."""

_found = False
if COMPILED:
    try:
        from usernet.wire.wide import Template

        _found = True
    except (ImportError, ValueError):
        pass  # there is no librt, or not the one that the compiler knew

_WIDE: Final[bool] = _found
"""Whether there is `Template`."""


@lru_cache(maxsize=64)
def _built(link: int, options: int) -> Struct:
    """A frame's headers with a link header of `link` bytes and TCP options of `options` bytes.

    All up to the total length, that, the identification, fragment bits to protocol, the checksum, addresses and ports,
    the sequence number, all up to the checksum, that, the urgent pointer and options.
    """
    return Struct(f"!{link + 2}sHH4sH12sI8sH{2 + options}s")


@lru_cache(maxsize=64)
def _matched(network: int, seq: int, payload: int) -> Struct:
    """What `Model` compares, of a frame with its IPv4 header at `network`, its sequence number at `seq` and its payload
    at `payload`.

    All up to the total length, that, the identification, fragment bits, TTL and protocol, addresses and ports, the
    sequence number, all up to the checksum, and what is behind it.
    """
    return Struct(f"!{network + 2}sHH4s2x{seq - network - 12}sI8s2x{payload - seq - 14}s")


def split(head: bytes, data: int, network: int, payload: bytes, mss: int, once: int) -> list[bytes]:
    """Make the frames of a super-segment, with both checksums.

    Args:
        head: its headers: IPv4 without options, and TCP.
        data: where its link header starts in `head`.
        network: where its IPv4 header does.
        payload: all of its payload, which is not empty.
        mss: bytes of payload of each frame but the last.
        once: flags that belong to the first frame only. FIN and PSH are the last one's.

    Returns:
        The frames. The identification rises by one from each to the next.
    """
    transport = network + IP_HLEN
    _, tos, _, first_ident, _, _, _, _, saddr, daddr = _parse_ip(head, network)
    _, _, first_seq, ack, header_len, flags, window, _, _ = _parse_tcp(head, transport)
    prefix = head[data : network + 2]
    fragment = head[network + 6 : network + 10]
    addresses = head[network + 12 : transport + 4]
    rest = head[transport + 18 : transport + header_len]
    # What both sums have in every segment: of the first, all but total length and identification, of the second all
    # but the length in the pseudo header, the sequence number, flags and payload.
    network_sum = SIMPLE + tos + words(fragment) + words(saddr + daddr)
    transport_sum = words(addresses) + IPPROTO_TCP + ack + window + words(rest)
    pack = _built(network - data, header_len - TCP_HLEN).pack
    frames: list[bytes] = []
    size = len(payload)
    last = (size - 1) // mss * mss
    middle = flags & ~(FIN | PSH)
    ip: i64 = network - data
    step: i64 = mss
    ident: i64 = first_ident
    seq: i64 = first_seq
    at: i64 = 0
    # The first frame, those between and the last: in each of these runs, length and flags are the same.
    for end, length, own in (
        (min(last, mss), mss, middle),
        (last, mss, middle & ~once),
        (size, size - last, flags & ~once if last else flags),
    ):
        stop: i64 = end
        if at >= stop:
            continue
        total = IP_HLEN + header_len + length
        doff_flags = header_len << 10 | own
        numbers = (ack << 32 | doff_flags << 16 | window).to_bytes(8, "big")
        network_own: i64 = network_sum + total
        transport_own: i64 = transport_sum + header_len + length + doff_flags
        first = pack(prefix, total, 0, fragment, 0, addresses, 0, numbers, 0, rest)
        template = Template(first) if _WIDE else None
        while at < stop:
            piece = payload[at : at + step]
            check = -(network_own + ident) % 0xFFFF
            tcp_check = 0xFFFF - csum(piece, 0, length, transport_own + seq)
            if template is not None:
                template.put(ip + 4, ident)
                template.put(ip + 10, check)
                template.put(ip + 24, seq >> 16)
                template.put(ip + 26, seq)
                template.put(ip + 36, tcp_check)
                header = template.value()
            else:
                header = pack(prefix, total, ident, fragment, check, addresses, seq, numbers, tcp_check, rest)
            frames.append(header + piece)
            ident = ident + 1 & 0xFFFF
            seq = seq + step & 0xFFFFFFFF
            at += step
    return frames


def _load16(b: bytes, o: i64) -> i64:
    high: i64 = b[o]
    low: i64 = b[o + 1]
    return high << 8 | low


def _load32(b: bytes, o: i64) -> i64:
    b0: i64 = b[o]
    b1: i64 = b[o + 1]
    b2: i64 = b[o + 2]
    b3: i64 = b[o + 3]
    return b0 << 24 | b1 << 16 | b2 << 8 | b3


def _same(a: bytes, b: bytes, start: i64, end: i64) -> bool:
    """Whether both have the same bytes from `start` to `end`."""
    at: i64 = start
    while at < end:
        x: i64 = a[at]
        y: i64 = b[at]
        if x != y:
            return False
        at += 1
    return True


@final
class Model:
    """A frame of a flow, IPv4 without options and TCP, by which the next ones are known."""

    __slots__ = ("_expected", "_head", "_network", "_network_sum", "_payload", "_prefix", "_transport_sum", "_unpack")

    def __init__(self, frame: bytes, network: int, payload: int) -> None:
        """frame: what was received, with its IPv4 header at `network` and its payload at `payload`. The last is as in
        the frame; the flow's checksum is made of what is in it, right or wrong."""
        transport = network + IP_HLEN
        self._network = network
        self._payload = payload
        self._head = frame[:payload]
        self._prefix = frame[: network + 2]
        self._unpack = _matched(network, transport + 4, payload).unpack_from
        prefix, _, _, fragment, addresses, _, numbers, options = self._unpack(frame)
        self._expected = (prefix, fragment, addresses, numbers, options)
        self._network_sum = words(frame[network : network + 2]) + words(fragment) + words(addresses[:8])
        saddr, daddr = addresses[:4], addresses[4:8]
        self._transport_sum = (
            pseudo_sum(saddr, daddr, IPPROTO_TCP, 0) + words(addresses[8:]) + words(numbers) + words(options)
        )

    def follows(self, frame: bytes, ident: int, seq: int) -> bool:
        """Whether a frame is the next of the model's flow and like it in all else, its IPv4 checksum right.

        Args:
            frame: what was received, as long as the model's headers at least.
            ident: the identification it has to have.
            seq: the sequence number it has to have.

        Returns:
            True where nothing differs but what has to, and its total length is all there is.
        """
        if COMPILED:
            return self._follows(frame, ident, seq)
        prefix, total, number, fragment, addresses, sequence, numbers, options = self._unpack(frame)
        network = self._network
        return (
            number == ident
            and sequence == seq
            and total == len(frame) - network
            and (prefix, fragment, addresses, numbers, options) == self._expected
            and not words(frame[network : network + IP_HLEN]) % 0xFFFF
        )

    def like(self, frame: bytes) -> bool:
        """Whether a frame, as long as the model's headers at least, is of its flow and like it in all else."""
        prefix, _, _, fragment, addresses, _, numbers, options = self._unpack(frame)
        return (prefix, fragment, addresses, numbers, options) == self._expected

    def _follows(self, frame: bytes, ident: int, seq: int) -> bool:
        """`follows`, byte by byte: for the compiler."""
        head = self._head
        network: i64 = self._network
        payload: i64 = self._payload
        size: i64 = len(frame)
        if size < payload or not frame.startswith(self._prefix):
            return False
        total: i64 = _load16(frame, network + 2)
        number: i64 = _load16(frame, network + 4)
        if (
            total != size - network
            or number != ident
            or _load32(frame, network + 24) != seq
            or not _same(frame, head, network + 6, network + 10)
            or not _same(frame, head, network + 12, network + 24)
            or not _same(frame, head, network + 28, network + 36)
            or not _same(frame, head, network + 38, payload)
        ):
            return False
        constant: i64 = self._network_sum
        return (constant + total + number + _load16(frame, network + 10)) % 0xFFFF == 0

    def sums_up(self, frame: bytes, seq: int) -> bool:
        """Whether the TCP checksum of a frame is right that `follows`, with sequence number `seq`."""
        size = len(frame)
        start = self._network + IP_HLEN
        check = frame[start + TCP_CHECK_OFFSET] << 8 | frame[start + TCP_CHECK_OFFSET + 1]
        total = self._transport_sum + (size - start) + seq + check
        return csum_fold(csum(frame, self._payload, size, total)) == 0
