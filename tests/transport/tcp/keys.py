"""Keys and signatures as tests make them: the structures of the socket options, and both kinds of code computed once
more, from the RFCs, so that the stack isn't held against itself."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from struct import pack

from tests.transport.tcp.harness import Peer
from usernet.sockets.user import UserSocket
from usernet.wire import checksum

TCP_MD5SIG, TCP_MD5SIG_EXT = 14, 32
TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO, TCP_AO_GET_KEYS, TCP_AO_REPAIR = 38, 39, 40, 41, 42


def sockaddr(address: str, port: int = 0, family: int | None = None) -> bytes:
    packed = ipaddress.ip_address(address).packed
    if len(packed) == 4:
        head = pack("<H", 2 if family is None else family) + port.to_bytes(2, "big") + packed
    else:
        head = pack("<H", 10 if family is None else family) + port.to_bytes(2, "big") + bytes(4) + packed
    return head.ljust(128, b"\0")


def md5sig(
    address: str, key: bytes, *, flags: int = 0, prefix: int = 0, ifindex: int = 0, keylen: int | None = None,
    family: int | None = None,
) -> bytes:  # fmt: skip
    """A `struct tcp_md5sig`."""
    length = len(key) if keylen is None else keylen
    return sockaddr(address, family=family) + pack("<BBHi", flags, prefix, length, ifindex) + key.ljust(80, b"\0")


def ao_add(
    address: str, key: bytes = b"secret", *, sndid: int = 100, rcvid: int = 100, alg: str = "hmac(sha1)",
    prefix: int | None = None, maclen: int = 0, keyflags: int = 0, flags: int = 0, ifindex: int = 0,
    keylen: int | None = None, port: int = 0, family: int | None = None, reserved2: int = 0,
) -> bytes:  # fmt: skip
    """A `struct tcp_ao_add`. flags: 1 set_current, 2 set_rnext."""
    if prefix is None:
        prefix = 32 if "." in address else 128
    return (
        sockaddr(address, port, family)
        + alg.encode().ljust(64, b"\0")
        + pack("<iIHBBBBBB", ifindex, flags, reserved2, prefix, sndid, rcvid, maclen, keyflags,
               len(key) if keylen is None else keylen)
        + key.ljust(80, b"\0")
    )  # fmt: skip


def ao_del(
    address: str, *, sndid: int = 100, rcvid: int = 100, prefix: int = 32, flags: int = 0, current: int = 0,
    rnext: int = 0, keyflags: int = 0, ifindex: int = 0, port: int = 0, reserved2: int = 0,
) -> bytes:  # fmt: skip
    """A `struct tcp_ao_del`. flags: 1 set_current, 2 set_rnext, 4 del_async."""
    return sockaddr(address, port) + pack(
        "<iIHBBBBBB", ifindex, flags, reserved2, prefix, sndid, rcvid, current, rnext, keyflags
    )


def ao_info(
    flags: int = 0, *, current: int = 0, rnext: int = 0, counters: tuple[int, ...] = (0,) * 5, reserved2: int = 0
) -> bytes:
    """A `struct tcp_ao_info_opt`. flags: 1 set_current, 2 set_rnext, 4 ao_required, 8 set_counters, 16 accept_icmps."""
    return pack("<IHBB5Q", flags, reserved2, current, rnext, *counters)


def ao_get(
    address: str | None = None, *, nkeys: int = 10, flags: int = 0, sndid: int = 0, rcvid: int = 0, prefix: int = 0,
    keyflags: int = 0, ifindex: int = 0, counters: tuple[int, int] = (0, 0),
) -> bytes:  # fmt: skip
    """A `struct tcp_ao_getsockopt`. flags: 1 is_current, 2 is_rnext, 4 get_all."""
    return (
        (bytes(128) if address is None else sockaddr(address))
        + bytes(64 + 80)
        + pack("<IH6Bi2Q", nkeys, flags, sndid, rcvid, prefix, 0, keyflags, 0, ifindex, *counters)
    )


def set_md5(sock: UserSocket, address: str, key: bytes, **more: int) -> None:
    sock.setsockopt(6, TCP_MD5SIG_EXT if more else TCP_MD5SIG, md5sig(address, key, **more))


# -- RFC 2385 and RFC 5925, once more


def pseudo(packet: bytes) -> bytes:
    total = int.from_bytes(packet[2:4], "big") - 20
    return packet[12:20] + bytes((0, 6)) + total.to_bytes(2, "big")


def md5_of(packet: bytes, key: bytes) -> bytes:
    """The digest that an IPv4 packet should have."""
    tcp = packet[20:]
    doff = tcp[12] >> 4 << 2
    return hashlib.md5(pseudo(packet) + tcp[:16] + b"\0\0" + tcp[18:20] + tcp[doff:] + key).digest()


def option_at(packet: bytes, kind: int) -> int:
    """Where in an IPv4 packet an option is; 0 where it isn't."""
    at, end = 40, 20 + (packet[32] >> 4 << 2)
    while at < end and packet[at]:
        if packet[at] == kind:
            return at
        at += 1 if packet[at] == 1 else packet[at + 1]
    return 0


def md5_good(packet: bytes, key: bytes) -> bool:
    at = option_at(packet, 19)
    return bool(at) and packet[at + 2 : at + 18] == md5_of(packet, key)


def ao_traffic_key(packet: bytes, key: bytes, sisn: int, disn: int, digest: str = "sha1") -> bytes:
    """RFC 5926 section 3.1.1.1, for the sender of an IPv4 packet."""
    size = hashlib.new(digest).digest_size
    context = packet[12:20] + packet[20:24] + sisn.to_bytes(4, "big") + disn.to_bytes(4, "big")
    return hmac.new(key, b"\1TCP-AO" + context + (size * 8).to_bytes(2, "big"), digest).digest()


def ao_code(packet: bytes, traffic: bytes, sne: int = 0, digest: str = "sha1", options: bool = True) -> bytes:
    """RFC 5925 section 5.1. options: whether those other than TCP-AO count."""
    tcp = packet[20:]
    doff = tcp[12] >> 4 << 2
    at = option_at(packet, 29) - 20
    maclen = tcp[at + 1] - 4
    zeroed = tcp[:16] + b"\0\0" + tcp[18 : at + 4] + bytes(maclen) + tcp[at + 4 + maclen : doff]
    if not options:
        zeroed = zeroed[:20] + zeroed[at : at + 4 + maclen]
    message = sne.to_bytes(4, "big") + pseudo(packet) + zeroed + tcp[doff:]
    return hmac.new(traffic, message, digest).digest()[:maclen]


def ao_good(packet: bytes, traffic: bytes, sne: int = 0, digest: str = "sha1", options: bool = True) -> bool:
    at = option_at(packet, 29)
    length = packet[at + 1]
    return bool(at) and packet[at + 4 : at + length] == ao_code(packet, traffic, sne, digest, options)


def segment(
    peer: Peer, flags: int, seq: int, ack: int | None = None, data: bytes = b"", *, options: bytes = b"",
    win: int = 65535,
) -> bytes:  # fmt: skip
    """A packet of the `peer`, relative numbers as with `Peer.send`; to be signed, and given to `Peer.packet`."""
    return peer.segment(flags, seq, ack, data, win=win, options=options)


def with_code(packet: bytes, at: int, code: bytes) -> bytes:
    """The packet with `code` at `at`, and a right checksum."""
    body = packet[20:at] + code + packet[at + len(code) :]
    body = body[:16] + b"\0\0" + body[18:]
    summed = pseudo(packet) + body
    check = checksum.csum_fold(checksum.csum(summed, 0, len(summed)))
    return packet[:20] + body[:16] + check.to_bytes(2, "big") + body[18:]


MD5_OPTION = b"\1\1\x13\x12" + bytes(16)


def md5_signed(peer: Peer, key: bytes, flags: int, seq: int, ack: int | None = None, data: bytes = b"") -> bytes:
    """A segment of the peer's with a right signature of TCP MD5."""
    packet = segment(peer, flags, seq, ack, data, options=MD5_OPTION)
    return with_code(packet, 44, md5_of(packet, key))
