"""A run of frames of one TCP flow over IPv4, received: what each must be to be the next.

The segments of bulk data that arrive one after the other differ in identification, sequence number and both checksums;
all else, some fifty bytes from the link header to the options, is the same. So it is not looked at field by field: a
frame of the run is its `Model`, and the next ones are compared with it, one by one (`follows`, `sums_up`), or many at
once, their headers side by side and their payloads side by side (`followers`, `sums`), as an RxRing gives them. Where
such runs come from and what they are for is above: ip/v4/train.

    0     network                                        transport                               payload
    | link | ver_ihl tos | tot_len ident | frag_off ttl protocol | check | saddr daddr | sport dport | seq | ack …

Compiled, many are a loop over their bytes. Interpreted, any loop over frames costs more than all it does, so the
headers of a run are one large integer, compared with what is expected in one operation: the model's header as often as
there are frames, plus what rises or falls from one to the next (`_pattern`).
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.compiled import COMPILED
from usernet.wire.checksum import csum, csum_fold, pseudo_sum, words
from usernet.wire.ipv4 import IP_HLEN
from usernet.wire.tcp import PSH, TCP_CHECK_OFFSET
from usernet.wire.tcp_ipv4 import IPPROTO_TCP

if TYPE_CHECKING:
    from usernet.core.native import i64

# Where in a frame, from its network header on, that differs from frame to frame, or may.
TOT_LEN: Final = 2
IDENT: Final = 4
FRAG_OFF: Final = 6
CHECK: Final = 10
SADDR: Final = 12
SEQ: Final = IP_HLEN + 4
ACK_SEQ: Final = IP_HLEN + 8
FLAGS: Final = IP_HLEN + 13
TCP_CHECK: Final = IP_HLEN + TCP_CHECK_OFFSET
URG_PTR: Final = IP_HLEN + 18

_from_bytes: Final = int.from_bytes


@lru_cache(maxsize=64)
def _matched(network: int, payload: int) -> Struct:
    """What `follows` compares, of a frame with its IPv4 header at `network` and its payload at `payload`.

    All up to the total length, that, the identification, fragment bits, TTL and protocol, addresses and ports, the
    sequence number, all up to the checksum, and what is behind it.
    """
    return Struct(f"!{network + TOT_LEN}sHH4s2x12sI8s2x{payload - network - URG_PTR}s")


@lru_cache(maxsize=128)
def _pattern(network: int, payload: int, count: int, step: int, size: int) -> tuple[int, int]:
    """What the headers of `count` frames, one after the other, are compared by, as one large integer, big-endian.

    Returns:
        A mask of all that must be as expected, which is all but the TCP checksums; and what is added to as many copies
        of the first header: for each frame what its identification and sequence number have risen by, `step` and `size`
        from each to the next, less what its IPv4 checksum has fallen by. No field may overflow on the way.
    """
    ident, check, seq = (8 * (payload - network - at - width) for at, width in ((IDENT, 2), (CHECK, 2), (SEQ, 4)))
    rise = (step << ident) - (step << check) + (size << seq)
    ramp = b"".join((number * rise).to_bytes(payload, "big") for number in range(count))
    mask = b"\xff" * (network + TCP_CHECK) + b"\0\0" + b"\xff" * (payload - network - URG_PTR)
    return _from_bytes(mask * count, "big"), _from_bytes(ramp, "big")


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


def _same(a: bytes, offset: i64, b: bytes, start: i64, end: i64) -> bool:
    """Whether the bytes of `b` from `start` to `end` are those of `a`, `offset` bytes further on."""
    at: i64 = start
    while at < end:
        x: i64 = a[offset + at]
        y: i64 = b[at]
        if x != y:
            return False
        at += 1
    return True


@final
class Model:
    """A frame of a flow, IPv4 without options and TCP, by which the next ones are known."""

    __slots__ = (
        "_base", "_expected", "_head", "_network", "_network_sum", "_payload", "_transport_sum", "_unpack", "pushed",
    )  # fmt: skip

    def __init__(self, frame: bytes, network: int, payload: int) -> None:
        """frame: what was received, with its IPv4 header at `network` and its payload at `payload`. The last is as in
        the frame; the flow's checksum is made of what is in it, right or wrong."""
        self._network = network
        self._payload = payload
        self._head = frame[:payload]
        self._unpack = _matched(network, payload).unpack_from
        prefix, _, _, fragment, addresses, _, numbers, options = self._unpack(frame)
        self._expected = (prefix, fragment, addresses, numbers, options)
        # All of each sum that is the same in every frame.
        self._network_sum = words(frame[network : network + TOT_LEN]) + words(fragment) + words(addresses[:8])
        self._transport_sum = (
            pseudo_sum(addresses[:4], addresses[4:8], IPPROTO_TCP, 0)
            + words(addresses[8:])
            + words(numbers)
            + words(options)
        )
        self._base = -1
        self.pushed: bool = False
        """The last one that `followers` counted has PSH, as the model and those before it have not."""

    def follows(self, frame: bytes, ident: int, seq: int) -> bool:
        """Whether a frame is the next of the model's flow and like it in all else, its IPv4 checksum right.

        Args:
            frame: what was received, as long as the model's headers at least.
            ident: the identification it has to have.
            seq: the sequence number it has to have.

        Returns:
            True where nothing differs but what has to, and its total length is all there is.
        """
        network = self._network
        if COMPILED:
            return self._follows(self._head, self._payload, frame, 0, len(frame) - network, ident, seq)
        prefix, total, number, fragment, addresses, sequence, numbers, options = self._unpack(frame)
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

    def _follows(
        self, head: bytes, payload: i64, frames: bytes, start: i64, length: i64, ident: i64, seq: i64
    ) -> bool:
        """`follows`, byte by byte, for the compiler: the frame's headers are at `start`, its total length is to be
        `length`. One that only has PSH on top of the model's flags does not follow, but is told of by `pushed`."""
        network: i64 = self._network
        at: i64 = start + network
        total: i64 = _load16(frames, at + TOT_LEN)
        number: i64 = _load16(frames, at + IDENT)
        if (
            total != length
            or number != ident
            or _load32(frames, at + SEQ) != seq
            or not _same(frames, start, head, 0, network + TOT_LEN)
            or not _same(frames, start, head, network + FRAG_OFF, network + CHECK)
            or not _same(frames, start, head, network + SADDR, network + SEQ)
            or not _same(frames, start, head, network + ACK_SEQ, network + FLAGS)
            or not _same(frames, start, head, network + FLAGS + 1, network + TCP_CHECK)
            or not _same(frames, start, head, network + URG_PTR, payload)
        ):
            return False
        constant: i64 = self._network_sum
        if (constant + total + number + _load16(frames, at + CHECK)) % 0xFFFF:
            return False
        flags: i64 = frames[at + FLAGS]
        expected: i64 = head[network + FLAGS]
        if flags == expected:
            return True
        self.pushed = flags == expected | PSH
        return False

    def sums_up(self, frame: bytes, seq: int) -> bool:
        """Whether the TCP checksum of a frame is right that `follows`, with sequence number `seq`."""
        size = len(frame)
        start = self._network + IP_HLEN
        check = frame[start + TCP_CHECK_OFFSET] << 8 | frame[start + TCP_CHECK_OFFSET + 1]
        total = self._transport_sum + (size - start) + seq + check
        return csum_fold(csum(frame, self._payload, size, total)) == 0

    def followers(self, headers: bytes, count: int, ident: int, step: int, seq: int, size: int) -> int:
        """How many frames follow one another, from the first of several on; all are as long as the model.

        Args:
            headers: theirs, up to the payload, one after the other.
            count: how many they are.
            ident: the identification that the first has to have.
            step: what it rises by from one to the next, 0 or 1.
            seq: the sequence number that the first has to have.
            size: bytes of payload of each.

        Returns:
            How many. Fewer than do may be counted, where a number starts anew at 0. The last may have PSH beyond the
            model's flags, and ends the run then: `pushed` tells.
        """
        self.pushed = False
        if not COMPILED:
            return self._followers(headers, count, ident, step, seq, size)
        head = self._head
        length: i64 = self._payload
        total: i64 = self._payload - self._network + size
        start: i64 = 0
        end: i64 = length * count
        number: i64 = ident
        rise: i64 = step
        position: i64 = seq
        advance: i64 = size
        while start < end and self._follows(head, length, headers, start, total, number, position):
            start += length
            number = number + rise & 0xFFFF
            position = position + advance & 0xFFFFFFFF
        return start // length + (1 if self.pushed else 0)

    def _followers(self, headers: bytes, count: int, ident: int, step: int, seq: int, size: int) -> int:
        """`followers`, all at once, for the interpreter."""
        network = self._network
        payload = self._payload
        total = payload - network + size
        check = -(self._network_sum + total + ident) % 0xFFFF
        # As far as no field passes its end: the pattern knows no carry out of it.
        most = min(count, (0xFFFFFFFF - seq) // size + 1)
        if step:
            most = min(most, 0x10000 - ident, check + 1)
        if most < count:
            count = most
            headers = headers[: count * payload]
        first = bytearray(self._head)
        first[network + TOT_LEN : network + FRAG_OFF] = (total << 16 | ident).to_bytes(4, "big")
        first[network + CHECK : network + SADDR] = check.to_bytes(2, "big")
        first[network + SEQ : network + ACK_SEQ] = seq.to_bytes(4, "big")
        first[network + TCP_CHECK : network + URG_PTR] = b"\0\0"
        mask, ramp = _pattern(network, payload, count, step, size)
        difference = (_from_bytes(headers, "big") & mask) ^ (_from_bytes(first * count, "big") + ramp)
        if not difference:
            return count
        # The highest bit that differs is in the first frame that does not follow.
        bits = 8 * payload
        behind = (difference.bit_length() - 1) // bits
        if difference >> behind * bits == PSH << 8 * (payload - network - FLAGS - 1):
            self.pushed = not first[network + FLAGS] & PSH
        return count - behind - (0 if self.pushed else 1)

    def sums(self, headers: bytes, payloads: bytes, count: int, seq: int, size: int, together: bool) -> int:
        """How many of the frames that `followers` has counted have a right TCP checksum, from the first on.

        Args:
            headers: as for `followers`, which was called for these last.
            payloads: the frames' payloads, one after the other.
            count: how many there are.
            seq: the sequence number of the first.
            size: bytes of payload of each.
            together: add all of them up, where that is faster: right is then that no error is left in the sum of all.
                One wrong frame is found as it is by itself, but the errors of two may cancel each other out.

        Returns:
            Up to which one all are right.
        """
        length = self._payload - self._network - IP_HLEN + size
        constant = self._transport_sum + length
        check = self._network + TCP_CHECK
        if together and not COMPILED and not size & 1:
            stride = self._payload
            total = count * (constant + seq) + size * (count * (count - 1) // 2)
            total += (sum(headers[check::stride]) << 8) + sum(headers[check + 1 :: stride])
            if self.pushed:
                total += PSH
            if csum_fold(csum(payloads, 0, count * size, total)) == 0:
                return count
        return self._sums(headers, payloads, count, seq, size, constant)

    def _sums(self, headers: bytes, payloads: bytes, count: i64, seq: i64, size: i64, constant: i64) -> int:
        """`sums`, one frame after the other."""
        stride: i64 = self._payload
        at_check: i64 = self._network + TCP_CHECK
        last: i64 = count - 1 if self.pushed else count
        number: i64 = 0
        at: i64 = 0
        while number < count:
            if number == last:
                constant += PSH
            high: i64 = headers[at_check]
            low: i64 = headers[at_check + 1]
            if csum(payloads, at, at + size, constant + seq + (high << 8 | low)) != 0xFFFF:
                break
            number += 1
            at += size
            at_check += stride
            seq = seq + size & 0xFFFFFFFF
        return number
