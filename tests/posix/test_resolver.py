"""The stub resolver, against nameservers on the same stack."""

from __future__ import annotations

import sys

import dns.message
import dns.rcode
import pytest

import usernet.socket as socket
from tests.posix.nameserver import nameserver, question, reply
from usernet.posix.resolver import candidates
from usernet.sockets.address import Names
from usernet.stack import Stack

Message = dns.message.Message


@pytest.fixture
def impatient(stack: Stack) -> Stack:
    """Does not wait long for an answer that will not come."""
    stack.names.timeout = 0.02
    return stack


def test_which_names_are_tried(stack: Stack) -> None:
    names = stack.net.get(Names)
    assert candidates(names, "host") == ["host."]
    names.search = ["a.example", "b.example."]
    assert candidates(names, "host") == ["host.a.example.", "host.b.example.", "host."]
    assert candidates(names, "host.sub") == ["host.sub.", "host.sub.a.example.", "host.sub.b.example."]
    assert candidates(names, "host.") == ["host."]
    names.ndots = 2
    assert candidates(names, "host.sub")[0] == "host.sub.a.example."
    names.search = [f"s{number}" for number in range(9)]
    assert len(candidates(names, "host")) == 7


def test_an_address_and_a_connection_by_name(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        return [reply(query, "server.example. A 127.0.0.9", "server.example. A 127.0.0.1")]

    with nameserver(stack, answer) as server:
        assert socket.gethostbyname("server.example") == "127.0.0.9"
        assert server.asked == [("server.example.", "A", "udp")]
        found = socket.getaddrinfo("server.example", 80, type=socket.SOCK_STREAM)
        assert [entry[4] for entry in found] == [("127.0.0.9", 80), ("127.0.0.1", 80)]
        with socket.create_server(("127.0.0.9", 80)) as listener, stack.socket() as client:
            client.connect(("server.example", 80))
            assert client.getpeername() == ("127.0.0.9", 80)
            listener.accept()[0].close()


def test_aliases_are_followed(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        aliases = ["www.example. CNAME web.example.", "web.example. CNAME x.example."]
        return [reply(query, *aliases, "x.example. A 10.0.0.1")]

    with nameserver(stack, answer):
        assert socket.gethostbyname("www.example") == "10.0.0.1"


def test_aliases_in_a_circle_end(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        return [reply(query, "a.example. CNAME b.example.", "b.example. CNAME a.example.")]

    with nameserver(stack, answer), pytest.raises(socket.gaierror) as raised:
        socket.gethostbyname("a.example")
    assert raised.value.errno == socket.EAI_NONAME


def test_ipv6_addresses_are_asked_for_where_wanted(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        name, kind = question(query)
        return [reply(query, f"{name} AAAA fd00::1" if kind == "AAAA" else f"{name} A 10.0.0.1")]

    with nameserver(stack, answer) as server:
        found = socket.getaddrinfo("server.example", 80, socket.AF_INET6, socket.SOCK_STREAM)
        assert [entry[4] for entry in found] == [("fd00::1", 80, 0, 0)]
        assert socket.getaddrinfo("server.example", 80, 0, 1)[0][4] == ("10.0.0.1", 80)
        assert [kind for _, kind, _ in server.asked] == ["AAAA", "A"]


def test_the_search_list_is_tried_in_order(stack: Stack) -> None:
    stack.names.search = ["one.example", "two.example"]

    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        name, _ = question(query)
        if name == "host.two.example.":
            return [reply(query, f"{name} A 10.0.0.2")]
        return [reply(query, rcode=dns.rcode.NXDOMAIN)]

    with nameserver(stack, answer) as server:
        assert socket.gethostbyname("host") == "10.0.0.2"
        assert [name for name, _, _ in server.asked] == ["host.one.example.", "host.two.example."]
        with pytest.raises(socket.gaierror) as raised:
            socket.gethostbyname("other")
        assert raised.value.errno == socket.EAI_NONAME
        assert server.asked[-1][0] == "other."


def test_an_answer_that_was_cut_is_asked_for_over_tcp(stack: Stack) -> None:
    many = [f"big.example. A 10.0.{number // 200}.{number % 200}" for number in range(500)]

    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        return [reply(query, *many)] if over_tcp else [reply(query, many[0], cut=True)]

    with nameserver(stack, answer) as server:
        assert len(socket.gethostbyname_ex("big.example")[2]) == 500
        assert [how for _, _, how in server.asked[:2]] == ["udp", "tcp"]


def test_answers_to_another_question_are_not_taken(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        forged = dns.message.from_wire(query.to_wire())
        forged.id ^= 1
        other = dns.message.make_query("other.example.", "A", id=query.id)
        return [
            b"\0\1\2",
            reply(forged, "host.example. A 6.6.6.6"),
            reply(other, "host.example. A 6.6.6.6"),
            reply(query, "host.example. A 10.0.0.1"),
        ]

    with nameserver(stack, answer):
        assert socket.gethostbyname("host.example") == "10.0.0.1"


def test_a_silent_nameserver_is_asked_again_and_then_the_next(impatient: Stack) -> None:
    def silent(query: Message, over_tcp: bool) -> list[bytes]:
        return []

    def second(query: Message, over_tcp: bool) -> list[bytes]:
        seen.append(1)
        return [reply(query, "host.example. A 10.0.0.1")] if len(seen) > 1 else []

    seen: list[int] = []
    with nameserver(impatient, silent) as first, nameserver(impatient, second, 5353):
        assert socket.gethostbyname("host.example") == "10.0.0.1"
        assert len(first.asked) == 2
        assert len(seen) == 2


def test_nobody_answers(impatient: Stack) -> None:
    impatient.nameservers = ["127.0.0.1:7", "127.0.0.1:9"]  # nothing listens there: refused at once
    with pytest.raises(socket.gaierror, match="Temporary failure") as raised:
        socket.gethostbyname("host.example")
    assert raised.value.errno == socket.EAI_AGAIN
    with pytest.raises(socket.herror, match="Unknown host"):
        socket.gethostbyaddr("192.0.2.1")


@pytest.mark.parametrize(
    ("rcode", "number"),
    [
        (dns.rcode.SERVFAIL, socket.EAI_AGAIN),
        (dns.rcode.REFUSED, socket.EAI_FAIL),
        (dns.rcode.NXDOMAIN, socket.EAI_NONAME),
    ],
)
def test_a_nameserver_that_fails_is_not_the_last_word(stack: Stack, rcode: int, number: int) -> None:
    def failing(query: Message, over_tcp: bool) -> list[bytes]:
        return [reply(query, rcode=rcode)]

    def knowing(query: Message, over_tcp: bool) -> list[bytes]:
        return [reply(query, "host.example. A 10.0.0.1")]

    with nameserver(stack, failing):
        with pytest.raises(socket.gaierror) as raised:
            socket.gethostbyname("host.example")
        assert raised.value.errno == number
        with nameserver(stack, knowing, 5353):
            if rcode == dns.rcode.NXDOMAIN:
                with pytest.raises(socket.gaierror):
                    socket.gethostbyname("host.example")
            else:
                assert socket.gethostbyname("host.example") == "10.0.0.1"


def test_only_three_nameservers_are_asked(impatient: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        return [reply(query, "host.example. A 10.0.0.1")]

    impatient.nameservers = ["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"]
    with nameserver(impatient, answer) as fourth, pytest.raises(socket.gaierror):
        socket.gethostbyname("host.example")
    assert fourth.asked == []


def test_a_tcp_answer_that_ends_too_early(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        return [] if over_tcp else [reply(query, cut=True)]

    with nameserver(stack, answer), pytest.raises(socket.gaierror) as raised:
        socket.gethostbyname("host.example")
    assert raised.value.errno == socket.EAI_AGAIN


def test_reverse_names(stack: Stack) -> None:
    def answer(query: Message, over_tcp: bool) -> list[bytes]:
        name, kind = question(query)
        assert kind == "PTR"
        if name == "7.2.0.192.in-addr.arpa.":
            return [reply(query, f"{name} PTR host.example.")]
        return [reply(query, rcode=dns.rcode.NXDOMAIN)]

    with nameserver(stack, answer):
        assert socket.gethostbyaddr("192.0.2.7") == ("host.example", [], ["192.0.2.7"])
        assert socket.getnameinfo(("192.0.2.7", 80), socket.NI_NUMERICSERV) == ("host.example", "80")
        assert socket.getfqdn("192.0.2.7") == "host.example"
        assert socket.getfqdn("192.0.2.8") == "192.0.2.8"


@pytest.mark.parametrize("server", ["nowhere", "10.0.0.256", "10.0.0.1:", "10.0.0.1:99999", "::g"])
def test_a_wrong_nameserver_is_named(stack: Stack, server: str) -> None:
    says = f"nameserver: expected an address, or address:port, not '{server}'"
    with pytest.raises(ValueError, match=says):
        stack.nameservers = [server]
    stack.nameservers.append(server)
    with pytest.raises(ValueError, match=says):
        socket.gethostbyname("host.example")


def test_a_name_that_no_nameserver_can_know(stack: Stack) -> None:
    stack.nameservers = ["127.0.0.1"]
    for name in ("a..b", "x" * 64 + ".example"):
        with pytest.raises(socket.gaierror) as raised:
            socket.gethostbyname(name)
        assert raised.value.errno == socket.EAI_NONAME


def test_without_dnspython_the_error_says_what_to_install(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.nameservers = ["127.0.0.1"]
    for name in [name for name in sys.modules if name == "dns" or name.startswith("dns.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dns", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'usernet\[dns\]'"):
        socket.gethostbyname("host.example")
    assert socket.gethostbyname("localhost") == "127.0.0.1"
