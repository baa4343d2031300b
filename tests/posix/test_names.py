"""getaddrinfo and its kin. What is numeric must come out as it does on the host, errors too."""

from __future__ import annotations

import errno
import socket as standard
from collections.abc import Callable
from typing import Any

import pytest

import usernet.socket as socket
from usernet.stack import Stack


def _outcome(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return call(*args, **kwargs)
    except Exception as problem:
        return type(problem), problem.args


NUMERIC: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((None, None), {}), (("127.0.0.1", 80), {}), (("127.0.0.1", "80"), {}), (("127.0.0.1", b"80"), {}),
    (("127.0.0.1", None), {}), (("127.0.0.1", ""), {}), (("127.1", 80), {"type": 1}),
    (("127.0.0.1", 70000), {"type": 1}), (("127.0.0.1", -1), {"type": 1}), (("127.0.0.1", "nosuch"), {}),
    (("127.0.0.1", 1.5), {}), ((5, 80), {}), (("127.0.0.1", 80), {"type": 1, "proto": 17}),
    (("127.0.0.1", 80), {"proto": 17}), (("127.0.0.1", 80), {"type": 3}),
    (("127.0.0.1", 80), {"type": 3, "proto": 1}), (("127.0.0.1", 80, 99), {}), (("127.0.0.1", 80, 10), {}),
    (("::1", 80, 2), {}), (("::1", 80, 0, 1), {}), (("::1%1", 80, 0, 1), {}), (("fe80::1%lo", 80, 0, 1), {}),
    (("fe80::1%nosuch", 80, 0, 1), {"flags": 4}), (("", 80), {"type": 1}), (("x", 80), {"flags": 4, "type": 1}),
    (("127.0.0.1", "nosuch"), {"type": 1, "flags": 0x400}), (("127.0.0.1", 80), {"flags": 1 << 20}),
    ((None, 80), {"flags": 2}), (("127.0.0.1", 80), {"type": 1, "flags": 2}),
    (("127.0.0.1", 80, 10, 1), {"flags": 8}), ((None, 80, 2, 1), {}), ((None, 80, 2, 1), {"flags": 1}),
    ((None, 80, 10, 1), {}), ((None, 80, 10, 1), {"flags": 1}), (("127.0.0.1", 80, "x"), {}),
    (("1.2.3.4 ", 80), {"flags": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs"), NUMERIC)
def test_numeric_hosts_are_as_on_the_host(stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    expected = _outcome(standard.getaddrinfo, args, kwargs)
    assert _outcome(socket.getaddrinfo, args, kwargs) == expected


def test_no_host_gives_the_families_that_the_stack_has(stack: Stack) -> None:
    for flags, address in ((0, "127.0.0.1"), (socket.AI_PASSIVE, "0.0.0.0")):
        found = socket.getaddrinfo(None, 80, type=socket.SOCK_STREAM, flags=flags)
        assert found == [(standard.AF_INET, standard.SOCK_STREAM, 6, "", (address, 80))]


def test_hosts_of_the_table(stack: Stack) -> None:
    stack.hosts["server.example"] = ["10.0.0.1", "10.0.0.2", "fd00::1"]
    found = socket.getaddrinfo("server.example", 80, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    assert [(entry[3], entry[4][0]) for entry in found] == [
        ("server.example", "10.0.0.1"), ("", "10.0.0.2"), ("", "fd00::1"),
    ]  # fmt: skip
    six = socket.getaddrinfo("server.example", 80, socket.AF_INET6, 1)
    assert [entry[4] for entry in six] == [("fd00::1", 80, 0, 0)]
    mapped = socket.getaddrinfo("server.example", 80, socket.AF_INET6, 1, 0, socket.AI_V4MAPPED | socket.AI_ALL)
    assert [entry[4][0] for entry in mapped] == ["fd00::1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"]
    stack.hosts["four.example"] = ["10.0.0.4"]
    mapped = socket.getaddrinfo("four.example", 80, socket.AF_INET6, 1, 0, socket.AI_V4MAPPED)
    assert [entry[4][0] for entry in mapped] == ["::ffff:10.0.0.4"]
    assert socket.gethostbyname("server.example") == "10.0.0.1"
    assert socket.gethostbyname_ex("server.example") == ("server.example", [], ["10.0.0.1", "10.0.0.2"])
    assert socket.gethostbyaddr("10.0.0.2") == ("server.example", [], ["10.0.0.2"])
    stack.hosts["alias.example"] = ["10.0.0.4"]
    assert socket.gethostbyname_ex("four.example") == ("four.example", ["alias.example"], ["10.0.0.4"])
    assert socket.getnameinfo(("10.0.0.1", 7), socket.NI_NUMERICSERV) == ("server.example", "7")
    assert socket.getnameinfo(("10.0.0.1", 7), socket.NI_NUMERICSERV | socket.NI_NOFQDN) == ("server", "7")
    assert socket.getnameinfo(("fd00::1", 7), socket.NI_NUMERICSERV) == ("server.example", "7")


def test_the_stacks_own_name(stack: Stack) -> None:
    assert socket.gethostname() == "here"
    assert socket.gethostbyname("here") == "127.0.0.1"
    assert socket.getfqdn() == "localhost" or socket.getfqdn() == "here"


BY_NAME: list[tuple[str, tuple[Any, ...]]] = [
    ("gethostbyname", ("127.0.0.1",)), ("gethostbyname", ("",)), ("gethostbyname", (5,)),
    ("gethostbyname", ("<broadcast>",)), ("gethostbyname_ex", ("127.0.0.1",)), ("gethostbyname_ex", (5,)),
    ("gethostbyaddr", (5,)), ("getnameinfo", (("127.0.0.1", 80), 3)), ("getnameinfo", (("x.invalid", 80), 3)),
    ("getnameinfo", (5, 3)), ("getnameinfo", (("127.0.0.1",), 3)), ("getnameinfo", (("127.0.0.1", "80"), 3)),
    ("getnameinfo", (("127.0.0.1", 70000), 3)), ("getnameinfo", (("::1", 80), 3)),
    ("getnameinfo", (("127.0.0.1", 80, 0, 0), 3)), ("getnameinfo", (("::1", 80, 1 << 20), 3)),
    ("getnameinfo", (("127.0.0.1", 80), "x")), ("if_nametoindex", ("nosuch",)), ("if_indextoname", (99,)),
    ("inet_aton", ("1.2.3.4",)), ("htons", (1,)), ("getservbyname", ("nosuch",)),
]  # fmt: skip


@pytest.mark.parametrize(("call", "args"), BY_NAME)
def test_calls_that_need_no_network_are_as_on_the_host(stack: Stack, call: str, args: tuple[Any, ...]) -> None:
    expected = _outcome(getattr(standard, call), args, {})
    assert _outcome(getattr(socket, call), args, {}) == expected


def test_names_that_nobody_knows(stack: Stack) -> None:
    for call in (socket.gethostbyname, socket.gethostbyname_ex, lambda name: socket.getaddrinfo(name, 80)):
        with pytest.raises(socket.gaierror) as raised:
            call("nobody.example")
        assert raised.value.errno == socket.EAI_NONAME
    with pytest.raises(socket.herror, match="Unknown host"):
        socket.gethostbyaddr("192.0.2.7")
    assert socket.getnameinfo(("192.0.2.7", 7), socket.NI_NUMERICSERV) == ("192.0.2.7", "7")
    with pytest.raises(socket.gaierror):
        socket.getnameinfo(("192.0.2.7", 7), socket.NI_NAMEREQD)


def test_a_stack_can_be_given_another_name_and_the_host_keeps_its_own(stack: Stack) -> None:
    before = standard.gethostname()
    socket.sethostname("other")
    assert socket.gethostname() == "other"
    socket.sethostname(b"bytes")  # type: ignore[arg-type]
    assert socket.gethostname() == "bytes"
    assert standard.gethostname() == before
    with pytest.raises(OSError) as caught:
        socket.sethostname("x" * 65)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError):
        socket.sethostname(5)  # type: ignore[arg-type]
    assert socket.gethostname() == "bytes"
