"""The web server of `host.usernet` (RFC 9112): tells each caller of their own connection.

    GET /               the connection's page: text for programs, HTML for a browser, JSON where that is asked for
    GET /json           the same as JSON, with all of tcp_info
    GET /bytes/1000000  that many bytes, to have something to fetch
    POST, PUT           takes what is sent, and says how much it was
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Generator
from http import HTTPStatus
from typing import Any, Final, final

from usernet.netd.supervisor.page import Connection, Handshakes
from usernet.netd.supervisor.tasks import Task, receive, send
from usernet.sockets.user import UserSocket

MAX_HEAD: Final = 16384
"""Bytes of a request's line and header fields."""
MAX_BYTES: Final = 1 << 40
FILLING: Final = b"usernet " * 8192


@final
class Request:
    """A request's head. problem: what is wrong with it, None where nothing is."""

    def __init__(self, head: bytes) -> None:
        self.problem: HTTPStatus | None = None
        self.method = self.target = self.line = ""
        self.version = "HTTP/1.1"
        self.fields: dict[str, str] = {}
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            self.problem = HTTPStatus.BAD_REQUEST
            return
        self.method, self.target, self.version = words
        if self.version not in ("HTTP/1.1", "HTTP/1.0"):
            self.problem = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                self.problem = HTTPStatus.BAD_REQUEST
                return
            self.fields[name.lower()] = value.strip()

    @property
    def keep(self) -> bool:
        """Whether the connection is to stay."""
        wish = self.fields.get("connection", "").lower()
        return not self.problem and ("close" not in wish if self.version == "HTTP/1.1" else "keep-alive" in wish)


def head_of(status: HTTPStatus, kind: str, length: int, keep: bool, more: str = "") -> bytes:
    """A response's head."""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: host.usernet\r\n"
        f"Date: {email.utils.formatdate(time.time(), usegmt=True)}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n{more}\r\n"
    ).encode()


@final
class Web:
    """Serves connections, each by one task."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes

    def serve(self, sock: UserSocket, peer: Any) -> Task:
        """A connection's requests, one after the other."""
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                if len(buffer) > MAX_HEAD:
                    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                    yield from self._say(sock, status, f"{status.phrase}\n", False)
                    return
                data = yield from receive(sock)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.lstrip(b"\r\n").partition(b"\r\n\r\n")
            request = Request(head)
            keep = request.keep
            if request.problem is not None:
                yield from self._say(sock, request.problem, f"{request.problem.phrase}\n", False)
                return
            if request.method in ("POST", "PUT"):
                left = yield from self._take(sock, request, buffer)
                if left is None:
                    return
                buffer = left
            elif request.fields.get("content-length", "0") != "0" or "transfer-encoding" in request.fields:
                status = HTTPStatus.BAD_REQUEST
                yield from self._say(sock, status, "A body goes with POST and PUT only.\n", False)
                return
            elif request.method in ("GET", "HEAD"):
                yield from self._get(sock, peer, request)
            else:
                status = HTTPStatus.NOT_IMPLEMENTED
                yield from self._say(sock, status, f"{status.phrase}: {request.method}\n", keep)
            if not keep:
                return

    def _say(
        self, sock: UserSocket, status: HTTPStatus, text: str, keep: bool, kind: str = "text/plain", head: bool = False
    ) -> Generator[int, None, None]:
        body = text.encode()
        start = head_of(status, f"{kind}; charset=utf-8", len(body), keep)
        yield from send(sock, start if head else start + body)

    def _get(self, sock: UserSocket, peer: Any, request: Request) -> Generator[int, None, None]:
        path = request.target.partition("?")[0]
        if "://" in path:  # the absolute form (RFC 9112 section 3.2.2)
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        accept = request.fields.get("accept", "")
        only_head = request.method == "HEAD"
        if path in ("/", "/json"):
            connection = Connection(sock, peer, self._handshakes, request.line)
            if path == "/json" or accept.startswith("application/json"):
                text, kind = connection.json(), "application/json"
            elif "text/html" in accept:
                text, kind = connection.html(), "text/html"
            else:
                text, kind = connection.text(), "text/plain"
            yield from self._say(sock, HTTPStatus.OK, text, request.keep, kind, only_head)
            return
        size = path.removeprefix("/bytes/")
        if path.startswith("/bytes/") and size.isascii() and size.isdecimal() and len(size) < 14:
            left = min(int(size), MAX_BYTES)
            yield from send(sock, head_of(HTTPStatus.OK, "application/octet-stream", left, request.keep))
            while left and not only_head:
                part = FILLING[:left]
                yield from send(sock, part)
                left -= len(part)
            return
        text = f"There is no {path} here; there are /, /json and /bytes/SIZE.\n"
        yield from self._say(sock, HTTPStatus.NOT_FOUND, text, request.keep, head=only_head)

    def _take(self, sock: UserSocket, request: Request, buffer: bytes) -> Generator[int, None, bytes | None]:
        """Read a body and throw it away. What came after it; None where the connection is of no more use."""
        length = request.fields.get("content-length", "")
        if "transfer-encoding" in request.fields or not (length.isascii() and length.isdecimal()):
            status = HTTPStatus.LENGTH_REQUIRED
            yield from self._say(sock, status, "A body needs its length in Content-Length.\n", False)
            return None
        if request.fields.get("expect", "").lower() == "100-continue":
            yield from send(sock, b"HTTP/1.1 100 Continue\r\n\r\n")
        left = int(length)
        total = left
        used = min(left, len(buffer))
        buffer, left = buffer[used:], left - used
        while left:
            data = yield from receive(sock)
            if not data:
                return None
            used = min(left, len(data))
            buffer, left = data[used:], left - used
        yield from self._say(sock, HTTPStatus.OK, f"{total} bytes taken\n", request.keep)
        return buffer
