"""Which UDP socket a datagram is for (Linux: udp_lib_get_port, __udp4_lib_lookup).

A connected socket is found by its four numbers, in one step. Others are filed under local address and port; those bound
to the datagram's own destination come before those bound to any address. Among several the best match wins (a peer,
then a device), then the one bound last; a group with SO_REUSEPORT shares by the flow's hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.memory import SockMemory
from usernet.sock.ports import PortTable, reuseport_select, udp_conflict
from usernet.transport.udp_offload import UdpOffload

if TYPE_CHECKING:
    from usernet.transport.udp_sock import UdpSock

TCP_ESTABLISHED: Final = 1
INT_MAX: Final = 0x7FFFFFFF


@final
class UdpTable:
    """The UDP sockets of one namespace that have a port.

    connected: by remote port, local port (both as on the wire), remote address, local address.
    bound: by local address, local port (as on the wire), in the order they came.
    memory: what waits to be read in all of them together.
    gro: how many sockets have UDP_GRO on; without any, nothing is merged.
    """

    def __init__(self, net: Net, memory: SockMemory | None = None) -> None:
        """memory: the account, where it is shared with another protocol that has registered its settings."""
        self.ports = PortTable(net, udp_conflict)
        self.connected: dict[bytes, list[UdpSock]] = {}
        self.bound: dict[bytes, list[UdpSock]] = {}
        self.gro: int = 0
        self.udp_wmem_min: int = 4096
        """As in Linux, without effect: what is sent counts for the socket alone."""
        self._offload = net.get(UdpOffload)
        self._seed: int = net.random.getrandbits(32)
        if memory is not None:
            self.memory = memory
            return
        self.memory = SockMemory((98304, 131072, 196608), 4096)
        net.sysctl.register("net.ipv4.udp_mem", self.memory, "limits", low=0, high=(1 << 63) - 1)
        net.sysctl.register("net.ipv4.udp_rmem_min", self.memory, "minimum", low=1, high=INT_MAX)
        net.sysctl.register("net.ipv4.udp_wmem_min", self, low=1, high=INT_MAX)

    def hash(self, sk: UdpSock) -> None:
        """File a socket that has a port, by its present addresses. It must not be filed already."""
        any_addr = sk.af.any
        port = sk.num.to_bytes(2, "big")
        if sk.state == TCP_ESTABLISHED and sk.dport and sk.daddr != any_addr and sk.rcv_saddr != any_addr:
            sk.in_connected = True
            sk.key = sk.dport.to_bytes(2, "big") + port + sk.daddr + sk.rcv_saddr
            self.connected.setdefault(sk.key, []).append(sk)
        else:
            sk.in_connected = False
            sk.key = sk.rcv_saddr + port
            self.bound.setdefault(sk.key, []).append(sk)

    def unhash(self, sk: UdpSock) -> None:
        """Take a socket out; nothing happens where it is not filed."""
        key = sk.key
        if not key:
            return
        sk.key = b""
        table = self.connected if sk.in_connected else self.bound
        row = table[key]
        row.remove(sk)
        if not row:
            del table[key]

    def find_connected(self, key: bytes, dev_index: int) -> UdpSock | None:
        """The connected socket of these four numbers, on this device; the last one where there are several."""
        row = self.connected.get(key)
        if row is None:
            return None
        found: UdpSock | None = None
        for sk in row:
            if sk.bound_dev_if == dev_index:
                found = sk
            elif not sk.bound_dev_if and (found is None or not found.bound_dev_if):
                found = sk
        return found

    def count_gro(self, delta: int) -> None:
        """A socket turned UDP_GRO on (1) or off (-1). Without any, GRO need not ask."""
        self.gro += delta
        self._offload.gro_lookup = self.wants_gro if self.gro else None

    def wants_gro(self, skb: SKBuff, sport: int, dport: int) -> bool:
        """Whether the socket that `skb`, which GRO looks at, is for takes merged datagrams."""
        ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
        dev = skb.dev
        index = dev.index if dev is not None else 0
        sk = self.lookup(skb.saddr, ports, skb.daddr, index, bytes(len(skb.daddr)), None)
        return sk is not None and sk.gro

    def lookup(
        self, saddr: bytes, ports: bytes, daddr: bytes, dev_index: int, any_addr: bytes, skb: SKBuff | None
    ) -> UdpSock | None:
        """The socket for a datagram (Linux: __udp4_lib_lookup).

        ports: source and destination port as they are on the wire. skb: for a reuseport group's program; None when
        looking for whom an ICMP error is for.
        """
        if self.connected:
            sk = self.find_connected(ports + saddr + daddr, dev_index)
            if sk is not None:
                return sk
        bound = self.bound
        port = ports[2:]
        row = bound.get(daddr + port)
        if row is not None:
            sk = self._best(row, saddr, ports, daddr, dev_index, any_addr, skb)
            if sk is not None:
                return sk
        row = bound.get(any_addr + port)
        if row is not None:
            return self._best(row, saddr, ports, daddr, dev_index, any_addr, skb)
        return None

    def _best(
        self, row: list[UdpSock], saddr: bytes, ports: bytes, daddr: bytes, dev_index: int, any_addr: bytes,
        skb: SKBuff | None,
    ) -> UdpSock | None:  # fmt: skip
        """Linux: udp4_lib_lookup2 with compute_score."""
        best: UdpSock | None = None
        best_score = -1
        for sk in reversed(row):
            score = 0
            if sk.bound_dev_if:
                if sk.bound_dev_if != dev_index:
                    continue
                score += 4
            if sk.daddr != any_addr:
                if sk.daddr != saddr:
                    continue
                score += 4
            if sk.dport:
                if sk.dport != ports[0] << 8 | ports[1]:
                    continue
                score += 4
            if score > best_score:
                best = sk
                best_score = score
        if best is None or not best.reuseport or best.state == TCP_ESTABLISHED or len(row) == 1:
            return best
        group = [
            sk for sk in row if sk.reuseport and sk.state != TCP_ESTABLISHED and sk.bound_dev_if == best.bound_dev_if
        ]
        if len(group) == 1:
            return best
        from zlib import crc32

        # A program sees the datagram from its payload on (Linux: reuseport_select_sock's hdr_len).
        chosen: UdpSock
        if skb is None:
            chosen = group[crc32(saddr + ports + daddr, self._seed) * len(group) >> 32]
        else:
            skb.data += 8
            skb.len -= 8
            chosen = reuseport_select(group, crc32(saddr + ports + daddr, self._seed), skb)
            skb.data -= 8
            skb.len += 8
        return chosen
