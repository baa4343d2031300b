"""Bytes that a program hands to a socket: values of options, ancillary data, addresses, flags. Only OSError comes back,
or for an address what the standard module raises."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tests.fuzz.world import World, records

LEVELS = (0, 1, 6, 17, 255, 263)  # SOL_IP, SOL_SOCKET, SOL_TCP, SOL_UDP, SOL_RAW, SOL_PACKET
MAX_LENGTH = 64


def socket_options(data: bytes) -> None:
    """setsockopt and getsockopt at every level of every kind of socket; the socket can still be used and closed.

    A record: which socket, then level, option (2 bytes) and value.
    """
    with World(checked=False) as world:
        world.sockets.append(world.socket(2, 1))
        for control, body in records(data):
            if len(body) < 3:
                continue
            sock = world.sockets[(control >> 2) % len(world.sockets)]
            level = LEVELS[body[0] % len(LEVELS)]
            option = int.from_bytes(body[1:3], "big")
            try:
                if control & 1:
                    assert len(sock.getsockopt(level, option, len(body) % MAX_LENGTH + 1)) <= MAX_LENGTH
                else:
                    sock.setsockopt(level, option, body[3:])
                if control & 2:
                    sock.sendto(body, ("10.0.0.2", 7))
            except OSError:
                pass


def ancillary_data(data: bytes) -> None:
    """sendmsg with ancillary data and flags of any content, to an address of any port.

    A record: which socket, then flags (2 bytes), port (2), and messages of level, type, length and that many bytes.
    """
    with World(checked=False) as world:
        for control, body in records(data):
            if len(body) < 4:
                continue
            sock = world.sockets[control % len(world.sockets)]
            flags, port = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
            messages: list[tuple[int, int, bytes]] = []
            at = 4
            while at + 3 <= len(body) and len(messages) < 8:
                value = body[at + 3 : at + 3 + body[at + 2]]
                messages.append((LEVELS[body[at] % len(LEVELS)], body[at + 1], value))
                at += 3 + len(value)
            with suppress(OSError):
                sock.sendmsg([body], messages, flags | 0x40, ("10.0.0.2", port))
            world.pass_time(1_000_000)


def addresses(data: bytes) -> None:
    """Addresses as programs write them, of every family, to bind, connect and sendto."""
    text = data.decode(errors="replace")
    host, _, rest = text.partition(",")
    number = int.from_bytes(data[:5], "big") - (1 << 32)
    forms: tuple[Any, ...] = (
        text, data, (host, number), (host, len(rest)), (data, 80), (host, 80, number), (host,), (number, 80),
        ("10.0.0.2", number & 0x1FFFF), ("eth0", number), ("eth0", 0x800, number, 1, data), (host, rest), None,
    )  # fmt: skip
    with World(checked=False) as world:
        for sock in (world.sockets[1], world.sockets[-1], world.listener):
            for form in forms:
                for call in (sock.connect, sock.bind):
                    # gaierror is an OSError, UnicodeError a ValueError.
                    with suppress(OSError, TypeError, ValueError, OverflowError):
                        call(form)
