"""Messages to the service of a stack, of any content and in any order, with descriptors that are whatever they are.

Whoever sends them is told what is wrong, or is cut off. Another client goes on as if nothing were, and when the first
one has gone nothing of it is left.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from tests.fuzz.world import records
from usernet.netd import protocol
from usernet.netd.client import Client
from usernet.netd.messages import OversizedError, Wire, close_all
from usernet.netd.server import Server
from usernet.runner import close_process_runner
from usernet.stack import Stack

PATIENCE = 10.0
MAX_MESSAGES = 200


def service_messages(data: bytes) -> None:
    """A record: which descriptors go along, whether to say Hello first or to begin anew, and a message."""
    address = f"\0usernet-fuzz-{os.getpid()}-{time.monotonic_ns()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    with Stack("fuzzed") as stack:
        server = Server(stack, listener)
        try:
            with Client(address) as client:
                sock = client.socket(2, 2)
                sock.bind(("127.0.0.1", 7))
                _feed(address, data, sock.fileno())
                _until(lambda: len(server.sessions) == 1)
                _until(lambda: len(server.calls.table) == 1)
                assert sock.getsockname() == ("127.0.0.1", 7)
                assert not server._brought
                assert not server.control._streams
                assert not stack.loop.blocked
                sock.close()
        finally:
            server.close()
    close_process_runner()


def _feed(address: str, data: bytes, fd: int) -> None:
    wire = _connect(address)
    try:
        for number, (control, body) in enumerate(records(data)):
            if number == MAX_MESSAGES:
                break
            if control & 0x80:
                wire.close()
                wire = _connect(address)
            fds = [fd] * (control & 3) + [0] * (control >> 2 & 3)
            with suppress(OSError):
                if number == 0 and not control & 0x40:
                    wire.send(protocol.encode(protocol.Hello(protocol.VERSION, "fuzz")))
                wire.send(body, fds)
            _drain(wire)
        # All that was sent is acted on before the connection ends.
        with suppress(OSError):
            wire.send(protocol.encode(protocol.SockName(0xFFFFFFFF, 0xFFFFFFFF)))
            _drain(wire, 0xFFFFFFFF)
    finally:
        wire.close()


def _connect(address: str) -> Wire:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(address)
    return Wire(sock)


def _drain(wire: Wire, last: int = 0) -> None:
    """Read what there is; `last`: until that request is answered, or the connection ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            data, fds = wire.receive()
        except BlockingIOError:
            if not last:
                return
            assert time.monotonic() < deadline, "no answer"
            time.sleep(0.0002)
            continue
        except (OSError, OversizedError):
            return
        close_all(fds)
        if not data:
            return
        message = protocol.decode_answer(data)
        if last and getattr(message, "id", 0) == last:
            return


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)
