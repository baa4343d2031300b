"""What is remembered of a peer address beside its routes (Linux: `struct inet_peer`, net/ipv4/inetpeer.c).

Two things: the token bucket that limits ICMP messages to one host, and how many fragments it has sent, by which
reassembly tells that an old datagram's missing piece won't come (`ipfrag_max_dist`). Both families share the table.

Bound: `net.ipv4.inet_peer_threshold` entries, default 65664; when it is full the one least recently used goes, and with
it only those two numbers: a host forgotten starts with a full bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from usernet.net.pernet import Net

XRLIM_BURST_FACTOR: Final = 6
_MINUTE: Final = 60_000_000_000


@final
class InetPeer:
    """One peer. `rid` counts fragments received from it."""

    __slots__ = ("_rate_last", "_rate_tokens", "rid")

    def __init__(self, now: int) -> None:
        self.rid: int = 0
        self._rate_tokens: int = 0
        # As if a minute had passed in silence: a new peer may be sent a whole burst.
        self._rate_last: int = now - _MINUTE

    def allow(self, now: int, interval: int) -> bool:
        """Take a token for one message (Linux: inet_peer_xrlim_allow).

        now: ns. interval: ns between messages in the long run, of which six may be saved up; 0 for no limit.
        Returns whether the message may be sent.
        """
        tokens = min(self._rate_tokens + now - self._rate_last, XRLIM_BURST_FACTOR * interval)
        self._rate_last = now
        allowed = tokens >= interval
        self._rate_tokens = tokens - interval if allowed else tokens
        return allowed


@final
class InetPeers:
    """The peers of one namespace, the least recently used first."""

    def __init__(self, net: Net) -> None:
        self._loop = net.loop
        self._peers: dict[bytes, InetPeer] = {}
        self.inet_peer_threshold: int = 65536 + 128
        net.sysctl.register("net.ipv4.inet_peer_threshold", self, low=1)

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, addr: bytes) -> InetPeer:
        """The peer of that packed address, made where there is none (Linux: inet_getpeer)."""
        peers = self._peers
        peer = peers.pop(addr, None)
        if peer is None:
            while len(peers) >= self.inet_peer_threshold:
                del peers[next(iter(peers))]
            peer = InetPeer(self._loop.now)
        peers[addr] = peer
        return peer
