"""A program that asks by netlink: makes requests, and takes answers apart."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.transport.hosts import Host
from usernet.drivers.veth import veth
from usernet.net.families import Families
from usernet.sock.msg import MSG_DONTWAIT, NetlinkAddr
from usernet.sockets.netlink.af_netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    SOL_NETLINK,
    NetlinkSock,
)
from usernet.sockets.netlink.netlink import Netlink
from usernet.wire import netlink as wire

ON = struct.pack("=i", 1)
REQUEST = wire.NLM_F_REQUEST
DUMP = wire.NLM_F_REQUEST | wire.NLM_F_DUMP
ACK = wire.NLM_F_REQUEST | wire.NLM_F_ACK
CREATE = ACK | wire.NLM_F_CREATE | wire.NLM_F_EXCL

Message = tuple[int, int, bytes]
"""Type, flags, and what is behind the header."""


@contextmanager
def host(name: str = "host") -> Iterator[Host]:
    """A host with lo, and eth0, 10.0.0.1/24, on a cable whose other end is nobody's."""
    made = Host(name)
    made.net.get(Netlink)
    made.add(veth()[0], "eth0", "10.0.0.1")
    yield made
    made.end()


def open_socket(on: Host, protocol: int = NETLINK_ROUTE, *, strict: bool = True) -> NetlinkSock:
    with on.inside():
        sk = on.net.get(Families).create(16, 3, protocol)
        assert isinstance(sk, NetlinkSock)
        sk.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, ON)
        if strict:
            sk.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, ON)
    return sk


def take_apart(data: bytes) -> list[Message]:
    found: list[Message] = []
    offset = 0
    while offset < len(data):
        length, kind, flags, _, _ = wire.parse(data, offset)
        found.append((kind, flags, data[offset + 16 : offset + length]))
        offset += length + 3 & ~3
    return found


def read(on: Host, sk: NetlinkSock, size: int = 65536) -> list[Message]:
    """All that waits to be read."""
    found: list[Message] = []
    while True:
        try:
            data, msg = on.receive(sk, size, MSG_DONTWAIT)
        except BlockingIOError:
            return found
        assert isinstance(msg.name, NetlinkAddr)
        assert msg.name.portid == 0
        found += take_apart(data)


def ask(on: Host, sk: NetlinkSock, kind: int, flags: int, payload: bytes) -> list[Message]:
    """Send a request; returns the answers."""
    on.send(sk, wire.build(kind, flags, 7, 0, payload), NetlinkAddr())
    return read(on, sk)


def dump(on: Host, sk: NetlinkSock, kind: int, payload: bytes) -> list[Message]:
    """The messages of a dump, which must end well."""
    *messages, (last, _, code) = ask(on, sk, kind, DUMP, payload)
    assert last == wire.NLMSG_DONE
    assert code == bytes(4)
    assert all(flags & wire.NLM_F_MULTI for _, flags, _ in messages)
    return messages


def ended(messages: list[Message]) -> tuple[int, str]:
    """The errno (0 for success) that the last message tells, and its text."""
    kind, flags, payload = messages[-1]
    assert kind in (wire.NLMSG_ERROR, wire.NLMSG_DONE)
    code = -struct.unpack_from("=i", payload)[0]
    if not flags & wire.NLM_F_ACK_TLVS:
        return code, ""
    offset = 4
    if kind == wire.NLMSG_ERROR:
        offset += 16 if flags & wire.NLM_F_CAPPED else struct.unpack_from("=I", payload, 4)[0] + 3 & ~3
    return code, wire.text(wire.attributes(payload, offset)[wire.NLMSGERR_ATTR_MSG])


def change(on: Host, sk: NetlinkSock, kind: int, flags: int, payload: bytes) -> tuple[int, str]:
    """A request that is only acknowledged: errno and text."""
    messages = ask(on, sk, kind, flags, payload)
    assert len(messages) == 1
    return ended(messages)
