"""A nameserver on a stack, for the tests of the resolver: answers by script, over UDP and TCP, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from usernet.sockets.user import UserSocket
from usernet.stack import Stack

Answer = Callable[[dns.message.Message, bool], list[bytes]]
"""`answer(query, over_tcp)`: the messages to send back, none to stay silent."""


def reply(query: dns.message.Message, *records: str, rcode: int = dns.rcode.NOERROR, cut: bool = False) -> bytes:
    """An answer to `query`: records as "name type data"."""
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.Rcode(rcode))
    if cut:
        answer.flags |= dns.flags.TC
    for record in records:
        name, kind, data = record.split(" ", 2)
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, data))
    return answer.to_wire()


def question(query: dns.message.Message) -> tuple[str, str]:
    """What is asked: name and type."""
    asked = query.question[0]
    return asked.name.to_text(), dns.rdatatype.to_text(asked.rdtype)


class Nameserver:
    """`asked`: every question that came, with how it came."""

    def __init__(self, stack: Stack, answer: Answer, port: int = 53) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self._answer = answer
        self._datagrams = stack.socket(2, 2)
        self._datagrams.bind(("", port))
        self._listener = stack.socket(2, 1)
        self._listener.bind(("", port))
        self._listener.listen()
        self._threads = [threading.Thread(target=serve) for serve in (self._serve_udp, self._serve_tcp)]
        self._stack = stack
        self._port = port

    def _serve_udp(self) -> None:
        while True:
            wire, address = self._datagrams.recvfrom(4096)
            if not wire:
                return
            query = dns.message.from_wire(wire)
            self.asked.append((*question(query), "udp"))
            for answer in self._answer(query, False):
                self._datagrams.sendto(answer, address)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rwb") as file:
                size = file.read(2)
                if not size:
                    return
                query = dns.message.from_wire(file.read(int.from_bytes(size, "big")))
                self.asked.append((*question(query), "tcp"))
                for answer in self._answer(query, True):
                    file.write(len(answer).to_bytes(2, "big") + answer)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        with UserSocket(self._stack.net, 2, 2) as last:
            last.sendto(b"", ("127.0.0.1", self._port))
        with UserSocket(self._stack.net) as last:
            last.connect(("127.0.0.1", self._port))
        for thread in self._threads:
            thread.join()
        self._datagrams.close()
        self._listener.close()


@contextmanager
def nameserver(stack: Stack, answer: Answer, port: int = 53) -> Iterator[Nameserver]:
    """Run one; the stack asks it."""
    server = Nameserver(stack, answer, port)
    stack.nameservers.append("127.0.0.1" if port == 53 else f"127.0.0.1:{port}")
    server.start()
    try:
        yield server
    finally:
        server.stop()
