"""The host at the other end: its page tells what is so, its names, its echo; and what it makes of bad requests."""

from __future__ import annotations

import errno
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

import usernet
from usernet.netd.supervisor.host import ADDRESS, GUEST, Host
from usernet.netd.supervisor.tasks import Tasks
from usernet.posix import patched


@pytest.fixture
def stack() -> Iterator[usernet.Stack]:
    with Host() as host, usernet.Stack("guest") as stack:
        host.join(stack)
        yield stack


def get(stack: usernet.Stack, path: str, **fields: str) -> tuple[int, str, str]:
    with patched(stack):
        connection = http.client.HTTPConnection(ADDRESS, timeout=10)
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
    return answer.status, answer.headers["Content-Type"], text


def raw(stack: usernet.Stack, data: bytes) -> bytes:
    """What comes in answer to these bytes, until the end."""
    with stack.socket() as sock:
        sock.settimeout(10)
        sock.connect((ADDRESS, 80))
        sock.sendall(data)
        got = b""
        while part := sock.recv(65536):
            got += part
    return got


def test_it_leads_nowhere_else_and_says_so(stack):
    before = time.monotonic()
    for number in range(20):
        with stack.socket() as sock, pytest.raises(OSError) as caught:
            sock.settimeout(10)
            sock.connect(("192.0.2.9", 80 + number))
        assert caught.value.errno == errno.ENETUNREACH
    assert time.monotonic() - before < 5


class TestPage:
    def test_the_handshake_is_the_one_that_took_place(self, stack):
        with patched(stack):
            connection = http.client.HTTPConnection(ADDRESS, timeout=10)
            connection.connect()
            here = connection.sock.getsockname()
            connection.request("GET", "/json")
            told = json.loads(connection.getresponse().read())
            info = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
            connection.close()
        assert told["you"] == list(here)
        assert told["host"] == [ADDRESS, 80]
        syn, synack, ack = told["handshake"]
        assert [one["flags"] for one in told["handshake"]] == ["SYN", "SYN+ACK", "ACK"]
        assert [one["from"] for one in told["handshake"]] == ["you", "host", "you"]
        assert synack["ack"] == ack["seq"] == (syn["seq"] + 1) % 2**32
        assert ack["ack"] == (synack["seq"] + 1) % 2**32
        assert 0 <= syn["ms"] <= synack["ms"] <= ack["ms"] < 10_000
        assert re.fullmatch(r"mss 1460,sackOK,TS,wscale \d+", syn["options"])
        assert told["tcp_info"]["options"] == info[5]
        assert told["tcp_info"]["data_segs_in"] == 1
        assert told["tcp_info"]["bytes_received"] > len("GET /json HTTP/1.1")

    def test_the_numbers_go_on_with_the_connection(self, stack):
        with patched(stack):
            connection = http.client.HTTPConnection(ADDRESS, timeout=10)
            told = []
            for _ in range(2):
                connection.request("GET", "/json")
                told.append(json.loads(connection.getresponse().read()))
            connection.close()
        assert told[0]["handshake"] == told[1]["handshake"]
        assert told[1]["tcp_info"]["data_segs_in"] == 2
        assert told[1]["tcp_info"]["bytes_sent"] > told[0]["tcp_info"]["bytes_sent"] == 0
        assert told[1]["tcp_info"]["rtt"] > 0

    def test_text_for_programs_and_html_for_browsers(self, stack):
        status, kind, text = get(stack, "/")
        assert (status, kind) == (200, "text/plain; charset=utf-8")
        for word in (GUEST, "handshake", "SYN+ACK", "round trip", "smoothed", "segments", "congestion"):
            assert word in text
        status, kind, text = get(stack, "/", Accept="text/html,*/*")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert text.startswith("<!doctype html>")
        assert "&lt;- SYN" in text

    def test_many_handshakes_do_not_stay_for_ever(self, stack, monkeypatch):
        monkeypatch.setattr("usernet.netd.supervisor.page.MAX_ENTRIES", 4)
        with patched(stack):
            first = http.client.HTTPConnection(ADDRESS, timeout=10)
            first.connect()
            for _ in range(5):
                assert get(stack, "/")[0] == 200
            first.request("GET", "/")
            assert "no longer known" in first.getresponse().read().decode()
            first.close()


class TestWeb:
    def test_bytes(self, stack):
        with patched(stack):
            connection = http.client.HTTPConnection(ADDRESS, timeout=10)
            connection.request("GET", "/bytes/1000003")
            assert len(connection.getresponse().read()) == 1000003
            connection.request("HEAD", "/bytes/77")
            answer = connection.getresponse()
            assert answer.headers["Content-Length"] == "77"
            assert not answer.read()
            connection.request("GET", "/nothing")
            answer = connection.getresponse()
            assert answer.status == 404
            answer.read()
            connection.request("PUT", "/", body=b"x" * 300_000)
            assert connection.getresponse().read() == b"300000 bytes taken\n"
            connection.request("DELETE", "/")
            assert connection.getresponse().status == 501
            connection.close()

    def test_requests_in_one_segment_are_answered_in_turn(self, stack):
        get_ = b"GET /bytes/3 HTTP/1.1\r\n\r\n"
        answer = raw(stack, get_ + get_ + b"GET /bytes/3 HTTP/1.0\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.count(b"\r\n\r\nuse") == 3

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"hello\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\n\r\n", 505),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
            (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000, 431),
            (b"GET /bytes/9999999999999999 HTTP/1.0\r\n\r\n", 404),
            ("GET /bytes/² HTTP/1.0\r\n\r\n".encode("latin-1"), 404),
        ],
    )
    def test_a_bad_request(self, stack, request_, status):
        assert raw(stack, request_).startswith(b"HTTP/1.1 %d " % status)

    def test_expect_continue(self, stack):
        with stack.socket() as sock:
            sock.settimeout(10)
            sock.connect((ADDRESS, 80))
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"hello")
            assert sock.recv(1000).endswith(b"5 bytes taken\n")


def ask(stack: usernet.Stack, wire: bytes) -> bytes:
    with stack.socket(type=2) as sock:
        sock.settimeout(10)
        sock.connect((ADDRESS, 53))
        sock.send(wire)
        answer: bytes = sock.recv(4096)
        return answer


def question(stack: usernet.Stack, name: str, kind: str = "A") -> dns.message.Message:
    return dns.message.from_wire(ask(stack, dns.message.make_query(name, kind).to_wire()))


class TestNames:
    def test_the_stack_finds_it_by_name(self, stack):
        stack.hosts = {}
        with patched(stack):
            assert socket.gethostbyname("host.usernet") == ADDRESS
            assert socket.gethostbyname("guest.usernet") == GUEST
            assert socket.gethostbyaddr(ADDRESS)[0] == "host.usernet"
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("example.org", 80)

    def test_answers(self, stack):
        answer = question(stack, "HOST.usernet")
        assert answer.answer[0].to_text() == "HOST.usernet. 60 IN A 10.0.2.2"
        assert answer.flags & dns.flags.AA
        assert question(stack, "15.2.0.10.in-addr.arpa", "PTR").answer[0][0].to_text() == "guest.usernet."
        nothing = question(stack, "host.usernet", "AAAA")
        assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
        assert nothing.authority[0].rdtype == dns.rdatatype.SOA
        assert question(stack, "usernet", "SOA").answer[0].rdtype == dns.rdatatype.SOA
        assert question(stack, "x.usernet").rcode() == dns.rcode.NXDOMAIN
        assert question(stack, "example.org").rcode() == dns.rcode.NXDOMAIN
        assert question(stack, "host.usernet", "ANY").answer[0].rdtype == dns.rdatatype.A

    def test_over_tcp(self, stack):
        wire = dns.message.make_query("host.usernet", "A").to_wire()
        framed = len(wire).to_bytes(2, "big") + wire
        with stack.socket() as sock, sock.makefile("rb") as file:
            sock.settimeout(10)
            sock.connect((ADDRESS, 53))
            sock.sendall(framed[:5])
            sock.sendall(framed[5:] + framed)
            for _ in range(2):
                answer = dns.message.from_wire(file.read(int.from_bytes(file.read(2), "big")))
                assert answer.answer[0][0].to_text() == ADDRESS

    def test_what_is_no_question(self, stack):
        good = dns.message.make_query("host.usernet", "A").to_wire()
        # Too short for a header, an answer, and then one that is cut: the last alone is answered.
        with stack.socket(type=2) as sock:
            sock.settimeout(10)
            sock.connect((ADDRESS, 53))
            sock.send(good[:11])
            sock.send(good[:2] + b"\x81" + good[3:])
            sock.send(good[:-3])
            answer = sock.recv(100)
        assert answer[:2] == good[:2]
        assert answer[3] & 15 == dns.rcode.FORMERR
        assert dns.message.from_wire(ask(stack, good[:2] + b"\x20" + good[3:])).rcode() == dns.rcode.NOTIMP


    @pytest.mark.parametrize("server", ["10.255.255.53", "127.0.0.53", "192.0.2.1"])
    def test_it_can_be_other_nameservers(self, server):
        with Host() as host, usernet.Stack("guest") as stack:
            host.join(stack)
            host.answer_as([server, "fe80::1", ADDRESS], stack)
            stack.hosts = {}
            stack.nameservers = [server]
            with patched(stack):
                assert socket.gethostbyname("host.usernet") == ADDRESS
            with stack.socket() as sock:
                sock.settimeout(10)
                sock.connect((server, 53))


class TestEcho:
    def test_tcp(self, stack):
        with stack.socket() as sock:
            sock.settimeout(10)
            sock.connect((ADDRESS, 7))
            sock.sendall(bytes(range(256)) * 4000)
            got = b""
            while len(got) < 1_024_000:
                got += sock.recv(65536)
            assert got == bytes(range(256)) * 4000
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(10) == b""

    def test_udp_but_not_to_another_echo(self, stack):
        with stack.socket(type=2) as sock, stack.socket(type=2) as other:
            other.bind(("", 7))
            other.settimeout(0.1)
            sock.settimeout(10)
            other.sendto(b"for ever", (ADDRESS, 7))
            sock.sendto(b"hello", (ADDRESS, 7))
            assert sock.recv(100) == b"hello"
            with pytest.raises(TimeoutError):
                other.recv(100)


class TestTasks:
    def test_connections_are_bounded_and_the_rest_waits(self):
        def hold(sock, _):
            while (yield 1):
                pass

        def one(sock, _):
            from usernet.netd.supervisor.tasks import receive, send

            data = yield from receive(sock)
            yield from send(sock, data)

        with usernet.Stack("tasks") as stack:
            tasks = Tasks(stack, limit=2)
            tasks.listen(9, one)
            tasks.start()
            socks = [stack.socket() for _ in range(4)]
            for sock in socks:
                sock.settimeout(10)
                sock.connect(("127.0.0.1", 9))
            socks[3].sendall(b"waits")
            socks[3].settimeout(0.2)
            with pytest.raises(TimeoutError):
                socks[3].recv(10)
            assert tasks.served == 2
            for sock in socks:
                sock.settimeout(10)
                if sock is not socks[3]:
                    sock.sendall(b"go")
                assert sock.recv(10) == (b"waits" if sock is socks[3] else b"go")
                assert sock.recv(10) == b""
                sock.close()
            stack.close()
            tasks.join()

    def test_an_idle_connection_is_ended(self):
        with usernet.Stack("tasks") as stack:
            tasks = Tasks(stack, idle=0.1)

            def silent(sock, _):
                from usernet.netd.supervisor.tasks import receive

                yield from receive(sock)

            tasks.listen(9, silent)
            tasks.start()
            with stack.socket() as sock:
                sock.settimeout(10)
                sock.connect(("127.0.0.1", 9))
                assert sock.recv(10) == b""
            stack.close()
            tasks.join()

    def test_a_fault_ends_its_own_connection_alone(self, monkeypatch):
        told: list[type] = []
        monkeypatch.setattr("threading.excepthook", lambda args: told.append(args.exc_type))

        def faulty(sock, _):
            yield 1
            raise LookupError

        with usernet.Stack("tasks") as stack:
            tasks = Tasks(stack)
            tasks.listen(9, faulty)
            tasks.start()
            for _ in range(2):
                with stack.socket() as sock:
                    sock.settimeout(10)
                    sock.connect(("127.0.0.1", 9))
                    sock.sendall(b"x")
                    with pytest.raises(ConnectionResetError):
                        sock.recv(10)
            stack.close()
            tasks.join()
        assert told == [LookupError, LookupError]
