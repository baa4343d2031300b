"""Peers: the bucket of tokens, and the bound of the table."""

from __future__ import annotations

import random

from usernet.core.clock import NSEC_PER_SEC, ManualClock
from usernet.ip.inetpeer import InetPeer, InetPeers
from usernet.net.pernet import Net


def test_a_new_peer_has_a_burst_of_six() -> None:
    peer = InetPeer(0)
    assert [peer.allow(0, NSEC_PER_SEC) for _ in range(8)] == [True] * 6 + [False] * 2
    assert peer.allow(NSEC_PER_SEC, NSEC_PER_SEC)
    assert not peer.allow(NSEC_PER_SEC, NSEC_PER_SEC)


def test_no_interval_is_no_limit() -> None:
    peer = InetPeer(0)
    assert all(peer.allow(0, 0) for _ in range(100))


def test_when_full_the_least_recently_used_goes() -> None:
    net = Net("peers", ManualClock(), random.Random(1))
    peers = net.get(InetPeers)
    net.sysctl["net.ipv4.inet_peer_threshold"] = 3
    first = peers.get(b"1")
    second = peers.get(b"2")
    peers.get(b"3")
    assert peers.get(b"1") is first
    peers.get(b"4")
    assert len(peers) == 3
    assert peers.get(b"1") is first
    assert peers.get(b"2") is not second
