"""`host.usernet`: the small host at the other end of the cable, where a command's stack has no other network.

10.0.2.2, a stack of its own in the same process, with a web server (TCP 80), a nameserver (UDP and TCP 53) and echo
(UDP and TCP 7). It answers for the names of its network, and leads nowhere else: as a router, it says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self, final

from usernet.drivers.veth import veth
from usernet.netd.supervisor.nameserver import Nameserver
from usernet.netd.supervisor.page import Handshakes
from usernet.netd.supervisor.tasks import Task, Tasks, receive, send
from usernet.netd.supervisor.web import Web
from usernet.sockets.user import UserSocket
from usernet.stack import Stack

NAME: Final = "host.usernet"
ADDRESS: Final = "10.0.2.2"
GUEST: Final = "10.0.2.15"
"""The address of the stack at the other end."""
GUEST_NAME: Final = "guest.usernet"
LENGTH: Final = 24
DEVICE: Final = "eth0"
DNS_PORT: Final = 53
LARGEST: Final = 65535


def echo(sock: UserSocket, _: Any) -> Task:
    """RFC 862, TCP."""
    while True:
        data = yield from receive(sock)
        if not data:
            return
        yield from send(sock, data)


def echo_datagrams(sock: UserSocket, _: Any) -> Task:
    """RFC 862, UDP."""
    while True:
        try:
            data, peer = sock.recvfrom(LARGEST)
            if peer[1] != 7:  # two echoes would never end
                sock.sendto(data, peer)
        except BlockingIOError:
            yield 1
        except OSError:
            continue  # an earlier answer was refused


@final
class Host:
    """The host, running. `stack` is its own. Closed at the end of a `with` block."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {NAME: [ADDRESS], GUEST_NAME: [GUEST]}
        self.stack = Stack(NAME)
        # What is for elsewhere is answered at once: a router without a route (RFC 1812 section 5.2.7.1).
        self.stack.sysctl["net.ipv4.ip_forward"] = 1
        for limit in ("icmp_ratelimit", "route.error_cost"):
            self.stack.sysctl[f"net.ipv4.{limit}"] = 0
        self.stack.start()
        self._tasks = Tasks(self.stack)
        self._near: list[Tasks] = []
        handshakes = Handshakes(self.stack.net)
        self._nameserver = nameserver = Nameserver(self.names, "usernet", NAME)
        self._tasks.listen(80, Web(handshakes).serve)
        self._tasks.listen(DNS_PORT, nameserver.stream)
        self._tasks.listen(7, echo)
        self._tasks.datagrams(DNS_PORT, nameserver.datagrams)
        self._tasks.datagrams(7, echo_datagrams)
        self._tasks.start()

    def join(self, stack: Stack) -> None:
        """Lay the cable to `stack`: its device, address, default route, and whom it asks for names."""
        near, far = veth()
        self.stack.add_device(far, DEVICE, f"{ADDRESS}/{LENGTH}")
        stack.add_device(near, DEVICE, f"{GUEST}/{LENGTH}")
        stack.add_route("default", via=ADDRESS)
        stack.nameservers = [ADDRESS]
        for name, addresses in self.names.items():
            stack.hosts[name] = list(addresses)

    def answer_as(self, nameservers: Sequence[str], stack: Stack) -> None:
        """Be these nameservers, too, for `stack`, which is joined: for a command that could not be given a resolv.conf
        of its own, and so asks the host's. One on the loopback is served on `stack` itself. Raises OSError where
        something else serves there."""
        near = Tasks(stack)
        for text in nameservers:
            address = ipaddress.ip_address(text)
            if address.version != 4 or text == ADDRESS:
                continue
            if not address.is_loopback:
                self.stack.add_address("lo", f"{text}/32")
                stack.add_route(f"{text}/32", via=ADDRESS)
            tasks = near if address.is_loopback else self._tasks
            # Each has a socket of its own, so that its answers come from where the questions went.
            tasks.datagrams(DNS_PORT, self._nameserver.datagrams, text)
            if address.is_loopback:
                tasks.listen(DNS_PORT, self._nameserver.stream, text)
        near.start()
        self._near.append(near)

    def close(self) -> None:
        """End it. The stacks that it is joined to have ended before."""
        self.stack.close()
        for tasks in (self._tasks, *self._near):
            tasks.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
