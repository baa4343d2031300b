"""IPv4 options: RFC 791 section 3.1, RFC 2113 (router alert), RFC 1812 section 5.2.4, RFC 6814 (the retired ones).

What stands between byte 20 of an IPv4 header and its end. Rare on real networks and refused by many, so this is the
slow path: the IP layer comes here only when a header is longer than 20 bytes. Linux: `net/ipv4/ip_options.c`.

An option is one byte (end, no-operation) or kind, length, data; `length` counts itself and the kind. Record route,
timestamp and source routes hold slots that routers fill, and a pointer to the next one, counted from 1 at the kind:

    | kind | length | pointer = 4 | slot 0 | slot 1 | …              record route, source routes: slots of 4 bytes
    | kind | length | pointer = 5 | overflow, flag | slot 0 | …      timestamp: slots of 4 or 8 bytes

Everything here takes `options`, all the bytes after the fixed header, and gives back new bytes of the same length, so
that a header's length never changes on the way. Offsets count from the first byte of `options`: an ICMP Parameter
Problem adds 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from usernet.wire.errors import WireError

MAX_IPOPTLEN: Final = 40

# A kind is a copied flag, a class and a number (RFC 791).
IPOPT_COPY: Final = 0x80
IPOPT_EOL: Final = 0
IPOPT_END: Final = 0
IPOPT_NOP: Final = 1
IPOPT_NOOP: Final = 1
IPOPT_RR: Final = 7
IPOPT_TIMESTAMP: Final = 68
IPOPT_TS: Final = 68
IPOPT_SEC: Final = 130
IPOPT_LSRR: Final = 131
IPOPT_CIPSO: Final = 134
IPOPT_SID: Final = 136
IPOPT_SSRR: Final = 137
IPOPT_RA: Final = 148

IPOPT_MINOFF: Final = 4

# Flags of IPOPT_TIMESTAMP
IPOPT_TS_TSONLY: Final = 0
IPOPT_TS_TSANDADDR: Final = 1
IPOPT_TS_PRESPEC: Final = 3

ROUTER_ALERT: Final = b"\x94\x04\x00\x00"
"""The option by which IGMP asks every router on the way to look (RFC 2113)."""

_U32: Final = Struct("!I")


def parse_options(options: bytes, sending: bool = False, privileged: bool = False) -> list[tuple[int, int, bytes]]:
    """Split and check options (Linux: `__ip_options_compile`).

    Args:
        options: the bytes after the fixed header.
        sending: check what a socket wants to send (`setsockopt(IP_OPTIONS)`) instead of what came in: source routes
            must be unused, and unknown kinds are refused.
        privileged: with `sending`, let unknown kinds and flags through (CAP_NET_RAW).

    Returns:
        (kind, offset, data) of each option in order; `data` is what follows the length byte. No-operations are left
        out, and so is everything from the first end on.

    Raises:
        WireError: an option is malformed or comes twice. Its `offset` is the byte that a Parameter Problem points at,
            counted from the first byte of `options`.
    """
    found: list[tuple[int, int, bytes]] = []
    strict = sending and not privileged
    source_routed = recorded = stamped = labelled = False
    size = len(options)
    at = 0
    while at < size:
        kind = options[at]
        if kind == IPOPT_END:
            break
        if kind == IPOPT_NOOP:
            at += 1
            continue
        if at + 2 > size:
            raise WireError("IPv4 option without a length", at)
        length = options[at + 1]
        after = at + length
        if length < 2 or after > size:
            raise WireError(f"IPv4 option of length {length}; expected 2 to {size - at}", at)
        if kind in (IPOPT_LSRR, IPOPT_SSRR):
            _check_slots(options, at, IPOPT_MINOFF, 3)
            if source_routed:
                raise WireError("second source route", at)
            if sending and (options[at + 2] != IPOPT_MINOFF or length < 7 or (length - 3) & 3):
                raise WireError("source route to send; expected a pointer of 4 and at least one whole address", at + 1)
            source_routed = True
        elif kind == IPOPT_RR:
            if recorded:
                raise WireError("second record route", at)
            _check_slots(options, at, IPOPT_MINOFF, 3)
            if options[at + 2] <= length and options[at + 2] + 3 > length:
                raise WireError("record route whose last slot is cut", at + 2)
            recorded = True
        elif kind == IPOPT_TIMESTAMP:
            if stamped:
                raise WireError("second timestamp", at)
            _check_timestamp(options, at, strict)
            stamped = True
        elif kind == IPOPT_RA:
            if length < 4:
                raise WireError(f"router alert of length {length}; expected 4", at + 1)
        elif kind == IPOPT_CIPSO:
            if labelled or strict:
                raise WireError("second security label, or one to send without privilege", at)
            labelled = True
        elif strict:
            raise WireError(f"IPv4 option of kind {kind}, which needs privilege to send", at)
        found.append((kind, at, options[at + 2 : after]))
        at = after
    return found


def _check_slots(options: bytes, at: int, first: int, least: int) -> None:
    """Check that the option at `at` has a pointer (`least` bytes in all) and that it points at slots (`first` on)."""
    if options[at + 1] < least:
        raise WireError(f"IPv4 option of length {options[at + 1]}; expected {least} or more", at + 1)
    if options[at + 2] < first:
        raise WireError(f"pointer of {options[at + 2]}; expected {first} or more", at + 2)


def _check_timestamp(options: bytes, at: int, strict: bool) -> None:
    """Check the timestamp option at `at`: its next slot is whole, or its overflow count can still count."""
    _check_slots(options, at, 5, 4)
    length = options[at + 1]
    pointer = options[at + 2]
    flag = options[at + 3] & 0xF
    if pointer > length:
        if flag != IPOPT_TS_PRESPEC and options[at + 3] >> 4 == 15:
            raise WireError("timestamp whose overflow count is full", at + 3)
        return
    if pointer + 3 > length or (flag in (IPOPT_TS_TSANDADDR, IPOPT_TS_PRESPEC) and pointer + 7 > length):
        raise WireError("timestamp whose last slot is cut", at + 2)
    if strict and flag not in (IPOPT_TS_TSONLY, IPOPT_TS_TSANDADDR, IPOPT_TS_PRESPEC):
        raise WireError(f"timestamp of unknown flag {flag}", at + 3)


def fragment_options(options: bytes) -> bytes:
    """Give the options of all fragments but the first (Linux: `ip_options_fragment`).

    Args:
        options: of the whole packet.

    Returns:
        As many bytes: options without the copied flag are no-operations (RFC 791 section 3.1).
    """
    kept = bytearray(options)
    size = len(options)
    at = 0
    while at < size and options[at] != IPOPT_END:
        if options[at] == IPOPT_NOOP:
            at += 1
            continue
        if at + 2 > size or options[at + 1] < 2 or at + options[at + 1] > size:
            break
        length = options[at + 1]
        if not options[at] & IPOPT_COPY:
            kept[at : at + length] = bytes([IPOPT_NOOP]) * length
        at += length
    return bytes(kept)


def pad_options(options: bytes) -> bytes:
    """Fill options up to a multiple of 4 bytes with ends of the list."""
    return options + bytes(-len(options) & 3)


def router_alert(value: int = 0) -> bytes:
    """Build a router alert (RFC 2113): 4 bytes; `value` 0 asks a router to look at the packet."""
    return bytes((IPOPT_RA, 4, value >> 8, value & 0xFF))


def build_record_route(slots: int) -> bytes:
    """Build an empty record route with room for `slots` (1 to 9) addresses: 3 + 4 x slots bytes, not padded."""
    return bytes((IPOPT_RR, 3 + 4 * slots, IPOPT_MINOFF)) + bytes(4 * slots)


def build_source_route(kind: int, hops: Sequence[bytes]) -> bytes:
    """Build a source route.

    Args:
        kind: IPOPT_LSRR or IPOPT_SSRR.
        hops: 1 to 9 addresses, 4 bytes each. As it stands in a packet: the hops after the one in the header's
            destination, the final one last. As `setsockopt(IP_OPTIONS)` takes it: all hops before the destination.

    Returns:
        3 + 4 x len(hops) bytes, not padded.
    """
    return bytes((kind, 3 + 4 * len(hops), IPOPT_MINOFF)) + b"".join(hops)


def build_timestamp(flag: int, slots: int, hops: Sequence[bytes] = ()) -> bytes:
    """Build a timestamp option.

    Args:
        flag: IPOPT_TS_TSONLY (slots of 4 bytes), IPOPT_TS_TSANDADDR or IPOPT_TS_PRESPEC (slots of 8).
        slots: how many.
        hops: with IPOPT_TS_PRESPEC, the addresses of the hosts that are to fill them, one a slot.

    Returns:
        4 + 4 or 8 x slots bytes.
    """
    if flag == IPOPT_TS_PRESPEC:
        room = b"".join([hop + b"\0\0\0\0" for hop in hops])
    else:
        room = bytes(slots * (4 if flag == IPOPT_TS_TSONLY else 8))
    return bytes((IPOPT_TIMESTAMP, 4 + len(room), 5, flag)) + room


def record_route(options: bytes, offset: int, addr: bytes) -> bytes:
    """Write an address into the next slot of the record route at `offset` and move its pointer.

    Args:
        options: all options, checked by `parse_options`.
        offset: where the record route starts.
        addr: the address by which this host passes the packet on, 4 bytes.

    Returns:
        The new options; the same ones if every slot is taken.
    """
    pointer = options[offset + 2]
    if pointer + 3 > options[offset + 1]:
        return options
    slot = offset + pointer - 1
    return options[: offset + 2] + bytes([pointer + 4]) + options[offset + 3 : slot] + addr + options[slot + 4 :]


def timestamp_addr(options: bytes, offset: int) -> bytes | None:
    """Say for whom the next slot of the timestamp at `offset` is meant: 4 bytes if prespecified, None if for anyone."""
    pointer = options[offset + 2]
    if options[offset + 3] & 0xF != IPOPT_TS_PRESPEC or pointer + 7 > options[offset + 1]:
        return None
    return options[offset + pointer - 1 : offset + pointer + 3]


def record_timestamp(options: bytes, offset: int, addr: bytes, milliseconds: int) -> bytes:
    """Write a time into the next slot of the timestamp at `offset` and move its pointer.

    Args:
        options: all options, checked by `parse_options`.
        offset: where the timestamp option starts.
        addr: this host's address, 4 bytes. A prespecified slot is filled only if it holds this one (`timestamp_addr`).
        milliseconds: since midnight UT, 0 to 0xFFFFFFFF.

    Returns:
        The new options. With no slot left the overflow count is one higher, unless the slots are prespecified.
    """
    length = options[offset + 1]
    pointer = options[offset + 2]
    flag = options[offset + 3] & 0xF
    stamp = _U32.pack(milliseconds)
    if flag != IPOPT_TS_TSONLY:
        stamp = addr + stamp
    if pointer + len(stamp) - 1 > length:
        if flag == IPOPT_TS_PRESPEC or options[offset + 3] >> 4 == 15:
            return options
        return options[: offset + 3] + bytes([options[offset + 3] + 0x10]) + options[offset + 4 :]
    slot = offset + pointer - 1
    if flag == IPOPT_TS_PRESPEC and options[slot : slot + 4] != addr:
        return options
    after = slot + len(stamp)
    moved = bytes([pointer + len(stamp)])
    return options[: offset + 2] + moved + options[offset + 3 : slot] + stamp + options[after:]


def source_route_next(options: bytes, offset: int) -> bytes | None:
    """Give the hop that the source route at `offset` names next, 4 bytes, or None if the packet has come to its end."""
    pointer = options[offset + 2]
    if pointer + 3 > options[offset + 1]:
        return None
    return options[offset + pointer - 1 : offset + pointer + 3]


def source_route_advance(options: bytes, offset: int, addr: bytes) -> bytes:
    """Replace the hop that was next by this host's own address and move the pointer (Linux: `ip_forward_options`).

    Args:
        options: all options, checked by `parse_options`.
        offset: where the source route starts; `source_route_next` has given the packet's new destination.
        addr: the address by which this host passes the packet on, 4 bytes.

    Returns:
        The new options.
    """
    return record_route(options, offset, addr)


def source_route_start(options: bytes, offset: int, daddr: bytes) -> tuple[bytes, bytes]:
    """Turn a source route as a socket gives it into one as a packet carries it (Linux: `ip_options_compile`, `faddr`).

    Args:
        options: all options, checked by `parse_options(sending=True)`.
        offset: where the source route starts.
        daddr: where the packet finally goes, 4 bytes.

    Returns:
        (options, first): the route without its first hop and with `daddr` at its end; and that first hop, which is the
        destination in the header.
    """
    first = offset + 3
    after = offset + options[offset + 1]
    return options[:first] + options[first + 4 : after] + daddr + options[after:], options[first : first + 4]


def source_route_given(options: bytes, offset: int, first: bytes) -> bytes:
    """The reverse of `source_route_start`: the route as a socket gives it, `first` in front, the end not named."""
    start = offset + 3
    last = offset + options[offset + 1] - 4
    return options[:start] + first + options[start:last] + options[last + 4 :]


def echo_options(options: bytes, saddr: bytes) -> tuple[bytes, bytes | None]:
    """Give the options for an answer to a packet (Linux: `__ip_options_echo`; RFC 1122 sections 3.2.1.8 and 4.2.3.8).

    Record route and timestamp are repeated as they came; a source route is reversed; all others are left out but for a
    security label.

    Args:
        options: the packet's, checked by `parse_options`.
        saddr: the packet's source, 4 bytes, to which the answer goes.

    Returns:
        (options, first): padded options, and the destination in the answer's header if there is a route to take,
        else None.
    """
    by_kind: dict[int, tuple[int, bytes]] = {}
    for kind, offset, _ in parse_options(options):
        by_kind[IPOPT_LSRR if kind == IPOPT_SSRR else kind] = (offset, options[offset : offset + options[offset + 1]])
    answer = b""
    first: bytes | None = None
    for kind in (IPOPT_RR, IPOPT_TIMESTAMP):
        if kind in by_kind:
            answer += by_kind[kind][1]
    if IPOPT_LSRR in by_kind:
        route = by_kind[IPOPT_LSRR][1]
        taken = (min(route[2], len(route) + 1) - IPOPT_MINOFF) // 4
        hops = [route[i : i + 4] for i in range(4 * taken - 1, 0, -4)]
        # RFC 1812 section 5.2.4.1: some hosts name themselves as the first hop, and would be named twice in the answer.
        if hops and hops[-1] == saddr:
            hops.pop()
        if hops:
            first = hops[0]
            answer += build_source_route(route[0], [*hops[1:], saddr])
    if IPOPT_CIPSO in by_kind:
        answer += by_kind[IPOPT_CIPSO][1]
    return pad_options(answer), first
