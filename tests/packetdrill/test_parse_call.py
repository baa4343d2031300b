from __future__ import annotations

import pytest

from usernet.packetdrill.ast import (
    Array,
    Assignment,
    Braces,
    Cmsg,
    Ellipsis_,
    EpollEvent,
    Expression,
    ExtendedError,
    Gre,
    InAddr,
    Integer,
    Iovec,
    Linger,
    MplsEntry,
    MplsStack,
    MsgHdr,
    Or,
    PollFd,
    ScmTimestamping,
    SockAddr,
    String,
    Symbol,
    SystemCall,
)
from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.parser import parse


def call(text: str) -> SystemCall:
    (event,) = parse(f"0 {text}").events
    assert isinstance(event.action, SystemCall)
    return event.action


def argument(text: str) -> Expression:
    (value,) = call(f"f({text}) = 0").arguments
    return value


def message(text: str) -> str:
    with pytest.raises(ScriptError) as caught:
        call(text)
    return caught.value.message


def test_a_call():
    got = call("setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0")
    assert got == SystemCall(
        "setsockopt",
        [Integer(3), Symbol("SOL_SOCKET"), Symbol("SO_REUSEADDR"), Array([Integer(1)]), Integer(4)],
        Integer(0),
    )
    assert call("f() = 0").arguments == []


@pytest.mark.parametrize(
    ("text", "result", "errno", "note"),
    [
        ("f() = 4", Integer(4), "", ""),
        ("f() = -1 EPIPE (Broken pipe)", Integer(-1), "EPIPE", "Broken pipe"),
        ("f() = -1 EPIPE(Broken pipe)", Integer(-1), "EPIPE", "Broken pipe"),
        ("f() = -1 EAGAIN", Integer(-1), "EAGAIN", ""),
        ("f() = -1 (Invalid Argument)", Integer(-1), "", "Invalid Argument"),
        ("f() = 0x2 (flags O_RDWR|O_NONBLOCK)", Integer(2, True), "", "flags O_RDWR | O_NONBLOCK"),
        ("f() = -1", Integer(-1), "", ""),
    ],
)
def test_results(text: str, result: Expression, errno: str, note: str):
    got = call(text)
    assert (got.result, got.errno, got.note) == (result, errno, note)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("...", Ellipsis_()),
        ("-5", Integer(-5)),
        ("0xffffffff", Integer(0xFFFFFFFF, True)),
        ("NULL", Symbol("NULL")),
        ("A|B | 4", Or(Or(Symbol("A"), Symbol("B")), Integer(4))),
        ('"reno"', String(b"reno")),
        (r'"\xf7\x63" "\n\\"', String(b"\xf7\x63\n\\")),
        ('"cu"...', String(b"cu", True)),
        ("[]", Array([])),
        ("[5, 6]", Array([Integer(5), Integer(6)])),
        ('inet_addr("1.2.3.4")', InAddr(b"\1\2\3\4")),
        ('inet6_addr("::1")', InAddr(bytes(15) + b"\1")),
        (
            '{sa_family = AF_INET, sin_port = htons(80), sin_addr = inet_addr("1.2.3.4")}',
            SockAddr("AF_INET", 80, b"\1\2\3\4"),
        ),
        (
            '{sa_family = AF_INET6, sin_port = htons(80), sin_addr = inet_addr("::1")}',
            SockAddr("AF_INET6", 80, bytes(15) + b"\1"),
        ),
        ("[{..., 100}, {...,0}]", Array([Iovec(100), Iovec(0)])),
        ("{fd=3, events=POLLIN|POLLOUT}", PollFd(Integer(3), Or(Symbol("POLLIN"), Symbol("POLLOUT")), Integer(0))),
        ("{fd=3, events=POLLIN, revents=POLLIN}", PollFd(Integer(3), Symbol("POLLIN"), Symbol("POLLIN"))),
        ("{events=EPOLLIN, fd=4}", EpollEvent(Symbol("EPOLLIN"), "fd", Integer(4))),
        ("{events=0, ptr=0}", EpollEvent(Integer(0), "ptr", Integer(0))),
        ("{onoff=1, linger=2}", Linger(1, 2)),
        ("{scm_sec=0, scm_nsec=20000000}", ScmTimestamping(0, 20000000)),
        (
            "{ee_errno=ENOMSG, ee_origin=4, ee_type=0, ee_code=1, ee_info=2, ee_data=3}",
            ExtendedError(Symbol("ENOMSG"), Integer(4), Integer(0), Integer(1), Integer(2), Integer(3)),
        ),
        (
            "{TCP_NLA_BUSY=..., TCP_NLA_SND_CWND=10}",
            Braces([Assignment("TCP_NLA_BUSY", Ellipsis_()), Assignment("TCP_NLA_SND_CWND", Integer(10))]),
        ),
        ("{flags [none], sum 0, off 0, key 0x7, seq 0}", Gre(0, 0, 0, 7, 0)),
        (
            "{(label 1, tc 2, ttl 3) (label 4, tc 5, [S], ttl 6)}",
            MplsStack([MplsEntry(1, 2, False, 3), MplsEntry(4, 5, True, 6)]),
        ),
        (
            ("{msg_name(...)=..., msg_iov(2)=[{..., 1}, {...,2}], msg_flags=MSG_TRUNC,"
            " msg_control=[{cmsg_level=SOL_TCP, cmsg_type=TCP_CM_INQ, cmsg_data=1}]}"),
            MsgHdr(
                2,
                [Iovec(1), Iovec(2)],
                Symbol("MSG_TRUNC"),
                [Cmsg(Symbol("SOL_TCP"), Symbol("TCP_CM_INQ"), Integer(1))],
            ),
        ),
        ("{msg_name(...)=..., msg_iov(0)=[], msg_flags=0}", MsgHdr(0, [], Integer(0), [])),
    ],
)
def test_arguments(text: str, expected: Expression):
    assert argument(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(", "found the end of the script, expected an expression"),
        ("f(1", "expected ')' after the call's arguments"),
        ("f(1)", "expected '=' and the call's result"),
        ("f(1 2) = 0", "found '2', expected ')'"),
        ("f(|) = 0", "found '|', expected an expression"),
        ("f([1) = 0", "expected ']' after an array"),
        ('f("\\q") = 0', "found the escape '\\q'"),
        ('f("\\x1") = 0', "expected two hexadecimal digits"),
        ('f(inet_addr("::1")) = 0', "found '::1', expected an IPv4 address"),
        ("f({fd=3, revents=1}) = 0", "found 'revents', expected 'events'"),
        ("f({events=1, u16=3}) = 0", "found 'u16', expected fd, ptr, u32 or u64"),
        ("f({msg_name(...)=..., msg_iov(1)=[1]}) = 0", "expected '{' and a buffer"),
        ("f({sa_family = AF_UNIX}) = 0", "expected AF_INET or AF_INET6"),
        ("f({scm_sec=x, scm_nsec=0}) = 0", "expected scm_sec, a decimal integer"),
        ("f({..., -1}) = 0", "length of a buffer out of range"),
        ("f() = -1 EPIPE (", "expected ')' after a note"),
        ("f(99999999999999999999) = 0", "a value out of range"),
    ],
)
def test_errors(text: str, expected: str):
    assert expected in message(text)
