"""The standard library on a stack, unmodified: servers and clients of many protocols."""

from __future__ import annotations

import ftplib
import http.client
import http.server
import smtplib
import socket
import socketserver
import threading
import urllib.request
import xmlrpc.client
import xmlrpc.server
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import usernet.socket
from usernet.posix import current, patched, using
from usernet.sock.sock import SockNet
from usernet.stack import Stack

ORIGINAL = dict(vars(socket))


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Any]:
    """Serve in a thread for the `with` block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            self.request[1].sendto(self.request[0].upper(), self.client_address)
        else:
            while data := self.request.recv(65536):
                self.request.sendall(data.upper())


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_the_module_is_as_before_afterwards(stack: Stack) -> None:
    with patched(stack) as inner:
        assert inner is stack
        assert socket.socket is usernet.socket.socket
        assert socket.create_connection is usernet.socket.create_connection
        assert socket.getaddrinfo is usernet.socket.getaddrinfo
        assert socket.AF_INET is ORIGINAL["AF_INET"]
    assert {name: vars(socket)[name] for name in ORIGINAL} == ORIGINAL
    with pytest.raises(KeyError), patched(stack):
        raise KeyError
    assert socket.socket is ORIGINAL["socket"]


def test_blocks_nest_and_the_innermost_holds(stack: Stack) -> None:
    with Stack("other") as other:
        with patched(stack):
            with patched(other):
                assert current() is other
                assert _in_thread(current) is other
                with using(stack):
                    assert current() is stack
            assert current() is stack
            assert socket.socket is usernet.socket.socket
            assert _in_thread(current) is stack
    assert socket.socket is ORIGINAL["socket"]


def _in_thread(call: Any) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_blocks_of_two_threads_may_end_in_any_order(stack: Stack) -> None:
    with Stack("other") as other:
        first, second = patched(stack), patched(other)
        first.__enter__()
        second_thread = _Held(second)
        first.__exit__(None, None, None)
        assert socket.socket is usernet.socket.socket
        second_thread.end()
    assert socket.socket is ORIGINAL["socket"]


class _Held:
    """A `with` block held by another thread."""

    def __init__(self, block: Any) -> None:
        self._go, self._entered = threading.Event(), threading.Event()
        self._block = block
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._entered.wait()

    def _run(self) -> None:
        with self._block:
            self._entered.set()
            self._go.wait()

    def end(self) -> None:
        self._go.set()
        self._thread.join()


def test_http(stack: Stack, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    (tmp_path / "file").write_bytes(content)

    def handler(*args: Any) -> Files:
        return Files(*args, directory=str(tmp_path))

    with patched(stack), serving(http.server.ThreadingHTTPServer(("127.0.0.1", 80), handler)):
        with urllib.request.urlopen("http://localhost/file", timeout=30) as response:
            assert response.read() == content
        client = http.client.HTTPConnection("127.0.0.1", timeout=30)
        for _ in range(3):
            client.request("GET", "/file")
            assert client.getresponse().read() == content
        client.request("POST", "/", content)
        assert client.getresponse().read() == content
        client.request("GET", "/nothing")
        assert client.getresponse().status == 404
        client.close()


def test_socketserver_of_streams_and_datagrams(stack: Stack) -> None:
    with patched(stack):
        with serving(socketserver.ThreadingTCPServer(("", 7), Echo)):
            with socket.create_connection(("127.0.0.1", 7), 30) as sock, sock.makefile("rwb") as file:
                file.write(b"hello\n")
                file.flush()
                assert file.readline() == b"HELLO\n"
        with serving(socketserver.UDPServer(("", 7), Echo)):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(30)
                sock.sendto(b"hello", ("127.0.0.1", 7))
                assert sock.recvfrom(100) == (b"HELLO", ("127.0.0.1", 7))


def test_unix_servers_stay_the_hosts(stack: Stack, tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with patched(stack), serving(socketserver.ThreadingUnixStreamServer(path, Echo)):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(b"x")
            assert sock.recv(1) == b"X"
        assert not stack.net.get(SockNet).sockets


def test_sockets_of_the_host_made_before_go_on(stack: Stack) -> None:
    left, right = socket.socketpair()
    with left, right, patched(stack):
        left.send(b"x")
        assert right.recv(1) == b"x"
        with right.dup() as twin:
            left.send(b"y")
            assert twin.recv(1) == b"y"


def test_xmlrpc(stack: Stack) -> None:
    with patched(stack), serving(xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 80), logRequests=False)) as server:
        server.register_function(pow)
        with xmlrpc.client.ServerProxy("http://127.0.0.1/") as proxy:
            assert proxy.pow(2, 10) == 1024


class Smtp(socketserver.StreamRequestHandler):
    """Enough of RFC 5321 to take one message."""

    received: list[bytes] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go\r\n")
                message = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    message += part
                self.received.append(message)
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return


def test_smtp(stack: Stack) -> None:
    with patched(stack), serving(socketserver.ThreadingTCPServer(("127.0.0.1", 25), Smtp)):
        with smtplib.SMTP("127.0.0.1", timeout=30) as client:
            client.sendmail("a@example", ["b@example"], "Subject: hi\r\n\r\nthere\r\n")
    assert Smtp.received.pop() == b"Subject: hi\r\n\r\nthere\r\n"


class Ftp(socketserver.StreamRequestHandler):
    """Enough of RFC 959 to give one file in passive mode."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        data: Any = None
        for line in self.rfile:
            verb = line.split()[0].upper()
            if verb == b"PASV":
                data = socket.create_server(("127.0.0.1", 0))
                port = data.getsockname()[1]
                self.wfile.write(f"227 (127,0,0,1,{port >> 8},{port & 255})\r\n".encode())
            elif verb == b"RETR":
                self.wfile.write(b"150 here it comes\r\n")
                connection, _ = data.accept()
                with connection, data:
                    connection.sendall(b"the file" * 1000)
                self.wfile.write(b"226 done\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                code = {b"USER": b"331", b"PASS": b"230"}.get(verb, b"200")
                self.wfile.write(code + b" ok\r\n")


def test_ftp(stack: Stack) -> None:
    received = bytearray()
    with patched(stack), serving(socketserver.ThreadingTCPServer(("127.0.0.1", 21), Ftp)):
        with ftplib.FTP("127.0.0.1", timeout=30) as client:
            client.login("a", "b")
            client.retrbinary("RETR file", received.extend)
    assert received == b"the file" * 1000


def test_patched_as_a_decorator(stack: Stack) -> None:
    @patched(stack)
    def inside() -> Any:
        return socket.socket

    assert inside() is usernet.socket.socket
    assert socket.socket is ORIGINAL["socket"]
