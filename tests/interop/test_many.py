"""500 connections at once, each way: the kernel's clients against the stack's server, and the other way round."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

import usernet
import usernet.socket
from tests.interop.bed import HOST, KERNEL, stack_bed
from tests.support import netns

pytestmark = netns.INTEROP

COUNT: Final = 500
PORT: Final = 7000


@pytest.fixture(autouse=True)
def enough_descriptors() -> Iterator[None]:
    """Both ends are in this process: a kernel's socket takes one, a stack's that a selector watches two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * COUNT + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors, and {hard} are allowed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def payload(number: int) -> bytes:
    """What connection `number` sends: more than one segment, and unlike every other's."""
    return number.to_bytes(4, "big") * (500 + number)


def serve(listener: Any, count: int, everyone: threading.Event) -> None:
    """Accept `count` connections, wait until all are there, then send each back what it sends until it ends."""
    with selectors.DefaultSelector() as selector:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        accepted = open_now = 0
        pending: dict[Any, bytearray] = {}
        while accepted < count or open_now:
            for key, mask in selector.select(20):
                conn: Any = key.fileobj
                if conn is listener:
                    conn, _ = listener.accept()
                    conn.setblocking(False)
                    pending[conn] = bytearray()
                    selector.register(conn, selectors.EVENT_READ)
                    accepted += 1
                    open_now += 1
                    if accepted == count:
                        everyone.set()
                    continue
                waiting = pending[conn]
                ended = False
                if mask & selectors.EVENT_READ:
                    if data := conn.recv(65536):
                        waiting += data
                    else:
                        ended = True
                if waiting:
                    del waiting[: conn.send(waiting)]
                if ended and not waiting:
                    selector.unregister(conn)
                    conn.close()
                    del pending[conn]
                    open_now -= 1
                else:
                    want = selectors.EVENT_WRITE if waiting else 0
                    selector.modify(conn, want if ended else want | selectors.EVENT_READ)


def exchange(clients: list[Any]) -> None:
    """Every client sends its payload at once, ends its direction, and reads until the end: the same must come back."""
    for number, client in enumerate(clients):
        client.settimeout(30)
        client.sendall(payload(number))
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    for number, client in enumerate(clients):
        got = bytearray()
        while data := client.recv(65536):
            got += data
        assert got == payload(number)
    for client in clients:
        client.close()


def run(listener: Any, connect: Any) -> None:
    everyone = threading.Event()
    server = threading.Thread(target=serve, args=(listener, COUNT, everyone))
    server.start()
    try:
        clients = [connect() for _ in range(COUNT)]
        assert everyone.wait(30)
        exchange(clients)
    finally:
        server.join(30)
        listener.close()
    assert not server.is_alive()


def test_from_the_kernel_to_the_stack():
    with stack_bed() as bed:
        with usernet.using(bed.stack):
            listener = usernet.socket.create_server(("", PORT), backlog=COUNT)

        def connect() -> socket.socket:
            with bed.client.entered():
                client = socket.socket()
            client.connect((HOST, PORT))
            return client

        run(listener, connect)
        # The kernel's clients closed first, so TIME-WAIT is theirs and nothing of the stack's is left.
        netns.wait_until(lambda: not bed.stack.sockets(), "the stack's sockets to end")
        assert bed.stack.mib["Tcp"]["PassiveOpens"] == COUNT
        assert bed.stack.mib["Tcp"]["CurrEstab"] == 0
        assert bed.stack.mib["TcpExt"]["ListenDrops"] == 0


def test_from_the_stack_to_the_kernel():
    with stack_bed() as bed:
        with bed.client.entered():
            listener = socket.socket()
        listener.bind((KERNEL, PORT))
        listener.listen(COUNT)

        def connect() -> Any:
            with usernet.using(bed.stack):
                return usernet.socket.create_connection((KERNEL, PORT))

        run(listener, connect)
        assert bed.stack.mib["Tcp"]["ActiveOpens"] == COUNT
        assert bed.stack.mib["Tcp"]["CurrEstab"] == 0


def test_from_the_kernel_to_the_stack_all_in_one_burst():
    """All 500 SYNs in one burst, not one connection after the other."""
    with stack_bed() as bed:
        with usernet.using(bed.stack):
            listener = usernet.socket.create_server(("", PORT), backlog=COUNT)
        with bed.client.entered():
            clients = [socket.socket() for _ in range(COUNT)]
        everyone = threading.Event()
        server = threading.Thread(target=serve, args=(listener, COUNT, everyone))
        server.start()
        for client in clients:
            client.setblocking(False)
            client.connect_ex((HOST, PORT))
        assert everyone.wait(30)
        exchange(clients)
        server.join(30)
        listener.close()
        assert not server.is_alive()
        assert bed.stack.mib["Tcp"]["PassiveOpens"] == COUNT
