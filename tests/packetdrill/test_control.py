from __future__ import annotations

import struct

import pytest

from usernet.packetdrill.ast import MsgHdr, SystemCall
from usernet.packetdrill.control import Expected, compare
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.parser import parse
from usernet.packetdrill.target import ControlMessage

SEC = 1_000_000_000
START = 1000 * SEC


def expected(*data: str, level: str = "SOL_SOCKET", type: str = "SCM_TIMESTAMPING") -> list[Expected]:
    control = ",".join(f"{{cmsg_level={level}, cmsg_type={type}, cmsg_data={each}}}" for each in data)
    (event,) = parse(f"0 f({{msg_name(...)=..., msg_iov(0)=[], msg_flags=0, msg_control=[{control}]}}) = 0").events
    assert isinstance(event.action, SystemCall)
    (header,) = event.action.arguments
    assert isinstance(header, MsgHdr)
    return [Expected(cmsg) for cmsg in header.control]


def verdict(want: list[Expected], *got: ControlMessage) -> str:
    try:
        compare(want, list(got), START, 4_000_000)
    except Mismatch as mismatch:
        return str(mismatch)
    return ""


def test_time_stamps_count_from_the_start_of_the_script():
    want = expected("{scm_sec=0, scm_nsec=20000000}")
    assert want[0].space() == 16 + 48

    def stamp(nsec: int) -> ControlMessage:
        return ControlMessage(1, 37, struct.pack("=6q", 1000, nsec, 0, 0, 0, 0))

    assert verdict(want, stamp(20_000_000)) == ""
    assert verdict(want, stamp(24_000_000)) == ""
    assert "expected 0.020000 s, came 0.025000 s" in verdict(want, stamp(25_000_000))
    assert verdict(expected("{scm_sec=0, scm_nsec=0}"), stamp(7)) == ""


def test_extended_errors():
    text = "{ee_errno=ENOMSG, ee_origin=4, ee_type=0, ee_code=0, ee_info=1, ee_data=2963}"
    want = expected(text, level="SOL_IP", type="IP_RECVERR")
    fields = struct.pack("=IBBBBII", 42, 4, 0, 0, 0, 1, 2963)
    assert want[0].data == fields + bytes(16)
    assert verdict(want, ControlMessage(0, 11, fields + b"offender's addr.")) == ""
    wrong = struct.pack("=IBBBBII", 42, 4, 0, 0, 0, 1, 7) + bytes(16)
    assert "ee_data: expected 2963, came 7" in verdict(want, ControlMessage(0, 11, wrong))
    assert "expected 32 bytes of data, came 16" in verdict(want, ControlMessage(0, 11, fields))
    six = expected(text, level="SOL_IPV6", type="IPV6_RECVERR")
    assert (len(six[0].data), six[0].space()) == (44, 64)


def test_numbers():
    want = expected("9000", level="SOL_TCP", type="TCP_CM_INQ")
    assert verdict(want, ControlMessage(6, 36, struct.pack("=i", 9000))) == ""
    assert "expected data 9000, came 1" in verdict(want, ControlMessage(6, 36, struct.pack("=i", 1)))
    assert "came level 1 and type 36" in verdict(want, ControlMessage(1, 36, struct.pack("=i", 9000)))
    assert verdict(want) == "expected 1 control messages, came 0"
    one = ControlMessage(6, 36, struct.pack("=i", 9000))
    assert verdict(want, one, one) == "expected 1 control messages, came 2"
    assert want[0].message().data == one.data


def test_statistics():
    text = "{TCP_NLA_BUSY=20000, TCP_NLA_DATA_SEGS_OUT=2, TCP_NLA_SND_CWND=..., TCP_NLA_CA_STATE=0}"
    want = expected(text, type="SCM_TIMESTAMPING_OPT_STATS")

    def stats(busy: int, segs: int, cwnd: int) -> ControlMessage:
        data = struct.pack("=HHQHHQHHIHHB3x", 12, 1, busy, 12, 4, segs, 8, 8, cwnd, 5, 14, 0)
        return ControlMessage(1, 54, data)

    assert verdict(want, stats(20000, 2, 10)) == ""
    assert verdict(want, stats(23000, 2, 10)) == ""  # 3 ms off
    assert "TCP_NLA_BUSY: expected 20000, came 26000" in verdict(want, stats(26000, 2, 10))
    assert "TCP_NLA_DATA_SEGS_OUT: expected 2, came 3" in verdict(want, stats(20000, 3, 10))
    zero = expected("{TCP_NLA_BUSY=0}", type="SCM_TIMESTAMPING_OPT_STATS")
    assert "expected 0, came 1" in verdict(zero, ControlMessage(1, 54, struct.pack("=HHQ", 12, 1, 1)))
    other = ControlMessage(1, 54, struct.pack("=HHQ", 12, 2, 0))
    assert "expected TCP_NLA_BUSY, came attribute 2" in verdict(zero, other)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{SO_DEBUG=1}", "TCP_NLA_NAME=VALUE"),
        ("{TCP_NLA_CA_STATE=256}", "expected 0 to 255"),
        ("[1]", "found an array"),
    ],
)
def test_bad_data(data: str, message: str):
    with pytest.raises(BadEvent, match=message):
        expected(data)
