"""docs/sockets.md says of methods and options what is so."""

from __future__ import annotations

import errno
import re
import socket as standard
from collections.abc import Iterator
from pathlib import Path

import pytest

from usernet.ip.v4 import sockglue
from usernet.sock import sockopt
from usernet.sockets import packet_sockopt
from usernet.sockets.netlink import af_netlink
from usernet.sockets.user import UserSocket
from usernet.stack import Stack
from usernet.transport import raw, udp_sock
from usernet.transport.tcp import sockopt as tcp_sockopt

TEXT = (Path(__file__).parents[2] / "docs" / "sockets.md").read_text()
NUMBERS = {
    "IP_CHECKSUM": 23, "IP_IPSEC_POLICY": 16, "IP_XFRM_POLICY": 17, "IP_MSFILTER": 41, "IP_ADD_MEMBERSHIP": 35,
    "TCP_CC_INFO": 26, "TCP_FASTOPEN": 23,
    "TCP_SAVED_SYN": 28, "TCP_TX_DELAY": 37, "TCP_ULP": 31, "TCP_ZEROCOPY_RECEIVE": 35, "UDP_ENCAP": 100,
    "PACKET_FANOUT": 18, "PACKET_RX_RING": 5, "PACKET_VNET_HDR": 15, "SO_TXTIME": 61, "SO_PEERSEC": 31,
}  # fmt: skip
"""Of options that no module here has a name for."""
LEVELS = {"SO": 1, "IP": 0, "TCP": 6, "UDP": 17, "ICMP": 255, "PACKET": 263, "NETLINK": 270}

_ROW = r"^\| `((?:SO|IP|TCP|UDP|ICMP|PACKET|NETLINK)_[A-Z0-9_]+)` \| (yes|no) \| (yes|no) \| (.*) \|$"
ROWS = re.findall(_ROW, TEXT, re.MULTILINE)


def number(name: str) -> int:
    for module in (sockopt, sockglue, tcp_sockopt, udp_sock, raw, packet_sockopt, af_netlink):
        value = getattr(module, name, None)
        if value is not None:
            return int(value)
    return NUMBERS[name]


@pytest.fixture(scope="module")
def sockets() -> Iterator[dict[str, list[UserSocket]]]:
    with Stack("docs") as stack:
        stream, datagram = stack.socket(2, 1), stack.socket(2, 2)
        raw_icmp, tap, netlink = stack.socket(2, 3, 1), stack.socket(17, 3, 3), stack.socket(16, 3)
        datagram.connect(("127.0.0.1", 9))
        yield {
            "SO": [datagram, stream], "IP": [raw_icmp, datagram, stream], "TCP": [stream], "UDP": [datagram],
            "ICMP": [raw_icmp], "PACKET": [tap], "NETLINK": [netlink],
        }  # fmt: skip
        for sock in (stream, datagram, raw_icmp, tap, netlink):
            sock.close()


def test_every_standard_method_is_there_and_in_the_table() -> None:
    missing = {"sendmsg_afalg", "share"}
    for name in dir(standard.socket):
        if name.startswith("_") or name in missing:
            continue
        assert hasattr(UserSocket, name), name
        assert f"`{name}`" in TEXT, name


def test_every_option_that_there_is_has_a_row() -> None:
    listed = {row[0] for row in ROWS} | set(re.findall(r"`([A-Z]+_[A-Z0-9_]+)`", TEXT))
    for module, prefix in ((sockopt, "SO_"), (tcp_sockopt, "TCP_"), (sockglue, "IP_")):
        for name in vars(module):
            if name.startswith(prefix) and not _NO_OPTION.search(name):
                assert name in listed or name in _UNLISTED, name


_NO_OPTION = re.compile(r"_(MAX|INIT|NEW)$|CA_NAME|^TCP_[A-Z]+$|^IP_(CMSG|PMTU)")
_UNLISTED = {"SO_GET_FILTER", "SO_TXTIME", "IP_ORIGDSTADDR", "TCP_CLOSE_WAIT", "TCP_SYN_SENT", "TCP_MIN_MSS",
             "TCP_NAGLE_CORK", "TCP_NAGLE_OFF", "TCP_MAX_WSCALE", "TCP_TIMEOUT_INIT", "IP_PROTOCOL", "TCP_RTO_MIN",
             "TCP_TIMEOUT_MIN_US"}  # fmt: skip


@pytest.mark.parametrize(("name", "get", "set_", "remark"), ROWS)
def test_what_the_table_says_is_so(
    sockets: dict[str, list[UserSocket]], name: str, get: str, set_: str, remark: str
) -> None:
    prefix = name.split("_", 1)[0]
    level, option = LEVELS[prefix], number(name)
    codes = set()
    for sock in sockets[prefix]:
        try:
            sock.getsockopt(level, option, 256)
            codes.add(0)
        except OSError as problem:
            codes.add(problem.errno or 0)
    absent = {errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENODATA}
    if get == "yes":
        assert codes - absent, f"{name} can't be read"
    else:
        assert codes <= absent, f"{name} can be read"
    named = {getattr(errno, word) for word in re.findall(r"`(E[A-Z]+)`", remark)}
    if set_ == "no":
        codes = set()
        for sock in sockets[prefix]:
            try:
                sock.setsockopt(level, option, 1)
                codes.add(0)
            except OSError as problem:
                codes.add(problem.errno or 0)
        assert codes <= {errno.ENOPROTOOPT, errno.EOPNOTSUPP} | named, f"{name} can be set"
