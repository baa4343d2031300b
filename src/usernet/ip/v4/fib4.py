"""The IPv4 routing tables of one namespace, and the generation number by which cached routes know that they still hold.

Linux: `struct netns_ipv4` (fib_local, fib_main, rt_genid), fib_lookup. The local table is asked first: it holds this
host's own addresses and broadcast addresses. Any change of addresses, routes or devices makes a new generation; nobody
has to find who caches what.
"""

from __future__ import annotations

from typing import Final, final

from usernet.ip.fib import RT_SCOPE_UNIVERSE, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_THROW, FibRoute, FibTable
from usernet.net.pernet import Net
from usernet.netdevice.device import NetDevice
from usernet.sock.af_ops import RTN_BROADCAST, RTN_MULTICAST, RTN_UNICAST

ANY: Final = bytes(4)
LOOPBACK: Final = b"\x7f\0\0\1"
BROADCAST: Final = b"\xff\xff\xff\xff"
ADDR_LEN: Final = 4


@final
class Fib4:
    """The two tables. `genid` changes with whatever a cached route was made from."""

    def __init__(self, net: Net) -> None:
        self.local = FibTable(RT_TABLE_LOCAL, ADDR_LEN)
        self.main = FibTable(RT_TABLE_MAIN, ADDR_LEN)
        self.genid: int = 0

    def lookup(self, addr: bytes, oif: int = 0, scope: int = RT_SCOPE_UNIVERSE) -> FibRoute | None:
        """The route to `addr` (Linux: fib_lookup). It may be of a kind that leads nowhere; None where there is none."""
        route = self.local.lookup(addr, oif, scope)
        if route is None:
            route = self.main.lookup(addr, oif, scope)
            if route is not None and route.kind == RTN_THROW:
                return None
        return route

    def flush(self) -> None:
        """Cached routes hold no more (Linux: rt_cache_flush)."""
        self.genid += 1

    def addr_type(self, addr: bytes, dev: NetDevice | None = None) -> int:
        """RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST, or RTN_UNICAST for any other (Linux: inet_addr_type).

        dev: only what is local or broadcast on that device counts as such (inet_dev_addr_type).
        """
        first = addr[0]
        if first == 0 or addr == BROADCAST:
            return RTN_BROADCAST
        if first & 0xF0 == 0xE0:
            return RTN_MULTICAST
        route = self.local.lookup(addr)
        if route is None or (dev is not None and route.dev is not dev):
            return RTN_UNICAST
        return route.kind
