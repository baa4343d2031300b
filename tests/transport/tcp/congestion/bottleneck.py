"""Bulk transfers over a bottleneck on virtual time, watched from within."""

from __future__ import annotations

from typing import Any

from usernet.lab import Lab
from usernet.sock.sock import SockNet
from usernet.stack import Stack
from usernet.transport.tcp.const import TCP_LISTEN
from usernet.transport.tcp.sock import TcpSock

PORT = 80
BUFFERS = "4096 4194304 33554432"


class Bulk:
    """Host `a` sends to host `b` without end. `received`: bytes so far."""

    def __init__(self, lab: Lab, a: Stack, b: Stack, port: int = PORT, address: str = "10.0.0.2") -> None:
        self.received = 0
        self.sender: TcpSock | None = None
        self._stack = a

        def serve() -> None:
            with b.socket() as listener:
                listener.bind(("", port))
                listener.listen()
                connection, _ = listener.accept()
                room = bytearray(1 << 20)
                with connection:
                    while count := connection.recv_into(room):
                        self.received += count

        def send() -> None:
            with a.socket() as sock:
                sock.connect((address, port))
                assert sock._socket is not None and isinstance(sock._socket.sk, TcpSock)
                self.sender = sock._socket.sk
                data = bytes(1 << 18)
                while True:
                    sock.sendall(data)

        lab.spawn(serve, daemon=True)
        lab.spawn(send, daemon=True)

    @property
    def sk(self) -> TcpSock:
        assert self.sender is not None
        return self.sender


def hosts(lab: Lab, control: str, **cable: Any) -> tuple[Stack, Stack]:
    """Two hosts whose connections use `control`, with buffers that are no limit."""
    a, b = lab.hosts(2, **cable)
    for stack in (a, b):
        stack.sysctl["net.ipv4.tcp_congestion_control"] = control
        stack.sysctl["net.ipv4.tcp_rmem"] = BUFFERS
        stack.sysctl["net.ipv4.tcp_wmem"] = BUFFERS
    return a, b


def connections(stack: Stack) -> list[TcpSock]:
    """A host's connections."""
    sockets = stack.net.get(SockNet).sockets
    return [sk for sk in sockets if isinstance(sk, TcpSock) and sk.state != TCP_LISTEN]
