"""A few servers for scanners to find: the same code on a stack (in the test's process) and on a kernel (as a script).

TCP 7 echoes, 21 greets as an FTP server, 80 is the standard library's http.server; UDP 7 echoes and 9 says nothing.
Every other port is closed.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Echo(socketserver.BaseRequestHandler):
    """TCP 7."""

    def handle(self) -> None:
        self.request.settimeout(10)
        try:
            while data := self.request.recv(4096):
                self.request.sendall(data)
        except OSError:  # a scanner ends with a reset
            return


class Greeting(socketserver.BaseRequestHandler):
    """TCP 21: the words of a server that nmap knows."""

    def handle(self) -> None:
        try:
            self.request.sendall(b"220 (vsFTPd 3.0.3)\r\n")
            self.request.settimeout(10)
            self.request.recv(4096)
        except OSError:
            return


class Web(BaseHTTPRequestHandler):
    """TCP 80."""

    def do_GET(self) -> None:
        body = b"It works.\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class EchoDatagram(socketserver.BaseRequestHandler):
    """UDP 7."""

    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Silent(socketserver.BaseRequestHandler):
    """UDP 9."""

    def handle(self) -> None:
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 100
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class WebServer(ThreadingHTTPServer):
    request_queue_size = 100
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Datagrams(socketserver.UDPServer):
    max_packet_size = 65535


@contextmanager
def serving() -> Iterator[None]:
    """All of them, each in a thread, on whatever `socket` is at present."""
    servers: list[socketserver.BaseServer] = [
        Server(("", 7), Echo),
        Server(("", 21), Greeting),
        WebServer(("", 80), Web),
        Datagrams(("", 7), EchoDatagram),
        Datagrams(("", 9), Silent),
    ]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
        for thread in threads:
            thread.join()
        for server in servers:
            server.server_close()


if __name__ == "__main__":
    with serving():
        print("ready", flush=True)
        threading.Event().wait()
