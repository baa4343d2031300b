"""The nameserver of `host.usernet`: what it knows, over UDP and TCP (RFC 1035 sections 4.1, 4.2, 4.3).

It has a table of names and answers for all of the world from it: a name that isn't there doesn't exist, for the network
that it is of has no way out. dnspython makes and reads the messages.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from usernet.netd.supervisor.tasks import Task, receive, send
from usernet.sockets.user import UserSocket

TTL: Final = 60
LARGEST: Final = 65535
HEADER: Final = 12
"""Bytes of a message's header."""


@final
class Nameserver:
    """Answers from `names`: name → addresses. `zone`: the domain that it calls its own in negative answers."""

    def __init__(self, names: Mapping[str, Sequence[str]], zone: str, server: str) -> None:
        """server: its own name."""
        self._names = {dns.name.from_text(name): list(addresses) for name, addresses in names.items()}
        self._addresses: dict[dns.name.Name, list[dns.name.Name]] = {}
        for name, addresses in self._names.items():
            for address in addresses:
                pointer = dns.name.from_text(ipaddress.ip_address(address).reverse_pointer)
                self._addresses.setdefault(pointer, []).append(name)
        self._zone = dns.name.from_text(zone)
        self._soa = f"{server}. hostmaster.{server}. 1 3600 600 86400 {TTL}"

    def answer(self, wire: bytes, room: int = LARGEST) -> bytes:
        """The answer to a message; b"" where it deserves none. room: bytes that it may take over this transport."""
        if len(wire) < HEADER or wire[2] & 0x80:
            return b""
        try:
            query = dns.message.from_wire(wire)
            reply = dns.message.make_response(query, recursion_available=True)
        except (dns.exception.DNSException, ValueError):
            # QR, and the opcode that was asked; FORMERR, and nothing else.
            return wire[:2] + bytes((0x80 | wire[2] & 0x79, dns.rcode.FORMERR)) + bytes(8)
        reply.flags |= dns.flags.AA
        if query.opcode() != dns.opcode.QUERY:
            reply.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1:
            reply.set_rcode(dns.rcode.FORMERR)
        elif query.question[0].rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
            reply.set_rcode(dns.rcode.REFUSED)
        else:
            self._look_up(query.question[0].name, query.question[0].rdtype, reply)
        if room < LARGEST:
            room = max(query.payload, 512) if query.edns >= 0 else 512
        try:
            return reply.to_wire(max_size=room)
        except dns.exception.TooBig:
            reply.answer.clear()
            reply.authority.clear()
            reply.flags |= dns.flags.TC
            return reply.to_wire(max_size=room)

    def _look_up(self, name: dns.name.Name, kind: int, reply: dns.message.Message) -> None:
        addresses = self._names.get(name)
        pointers = self._addresses.get(name)
        for rdtype, data in (
            (dns.rdatatype.A, [address for address in addresses or () if ":" not in address]),
            (dns.rdatatype.AAAA, [address for address in addresses or () if ":" in address]),
            (dns.rdatatype.PTR, [pointer.to_text() for pointer in pointers or ()]),
        ):
            if data and kind in (rdtype, dns.rdatatype.ANY):
                reply.answer.append(dns.rrset.from_text_list(name, TTL, dns.rdataclass.IN, rdtype, data))
        if reply.answer:
            return
        if addresses is None and pointers is None and name != self._zone:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        if name.is_subdomain(self._zone):
            soa = dns.rrset.from_text(self._zone, TTL, dns.rdataclass.IN, dns.rdatatype.SOA, self._soa)
            (reply.answer if name == self._zone and kind == dns.rdatatype.SOA else reply.authority).append(soa)

    # -- as tasks

    def datagrams(self, sock: UserSocket, _: Any) -> Task:
        """Serve UDP."""
        while True:
            try:
                wire, peer = sock.recvfrom(LARGEST)
            except BlockingIOError:
                yield 1
                continue
            except OSError:
                continue  # an earlier answer was refused
            reply = self.answer(wire, 512)
            if reply:
                try:
                    sock.sendto(reply, peer)
                except OSError:
                    continue  # it asks again

    def stream(self, sock: UserSocket, _: Any) -> Task:
        """Serve a connection of TCP: each message is preceded by its length."""
        buffer = b""
        while True:
            while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
                data = yield from receive(sock)
                if not data:
                    return
                buffer += data
            end = 2 + int.from_bytes(buffer[:2], "big")
            reply = self.answer(buffer[2:end])
            buffer = buffer[end:]
            if not reply:
                return
            yield from send(sock, len(reply).to_bytes(2, "big") + reply)
