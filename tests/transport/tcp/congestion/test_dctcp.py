"""DCTCP: marks are echoed exactly, and the window follows their fraction (RFC 8257)."""

from __future__ import annotations

import socket
from struct import unpack
from typing import Any

import pytest

from tests.support.compiled import interpreted_only
from tests.transport.tcp.harness import Pair, sock_of
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.accecn import INET_ECN_ECT_0
from usernet.transport.tcp.congestion.dctcp import DCTCP_MAX_ALPHA, Dctcp, DctcpReno
from usernet.transport.tcp.ecn import TCP_ECN_MODE_RFC3168
from usernet.wire.ethernet import ETH_P_IP

DCTCP = {"tcp_congestion_control": "dctcp"}


def test_its_connections_have_ecn_whatever_the_sysctl_says_and_all_packets_are_capable():
    with Pair(sysctl=DCTCP | {"tcp_ecn": 0}) as pair:
        seen: list[int] = []

        def look(skb: SKBuff) -> None:
            if skb.protocol == ETH_P_IP:
                seen.append(skb.head[skb.network_header + 1] & 3)

        pair.right.net.trace.netif_receive_skb.attach(look)
        client, server = pair.connected()
        client.send(bytes(5000))
        pair.run(1.0)
        assert len(seen) >= 3 and set(seen) == {INET_ECN_ECT_0}
        for sock in (client, server):
            assert isinstance(sock_of(sock).ca, Dctcp)
            assert sock_of(sock).ecn_flags & TCP_ECN_MODE_RFC3168


def test_a_peer_without_ecn_gets_reno():
    with Pair(sysctl={"tcp_ecn": 0}) as pair:
        pair.left.sysctl["net.ipv4.tcp_congestion_control"] = "dctcp"
        client, _ = pair.connected()
        sk = sock_of(client)
        assert isinstance(sk.ca, DctcpReno)
        assert sk.tos & 3 == 0
        assert client.getsockopt(socket.IPPROTO_TCP, 26, 20) == bytes(16)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == b"dctcp-reno".ljust(16, b"\0")

pytestmark = interpreted_only  # Sender stands in for a connection


class Sender:
    """What DCTCP's sums need of a socket."""

    class tcp:
        dctcp_shift_g = 4
        dctcp_alpha_on_init = 1024

    def __init__(self) -> None:
        self.ecn_flags = TCP_ECN_MODE_RFC3168
        self.rcv_nxt = self.snd_nxt = self.snd_una = 0
        self.delivered = self.delivered_ce = 0
        self.snd_cwnd, self.snd_ssthresh = 100, 1 << 30
        self.ca_state = 0
        self.mss_cache = 1000

    def round(self: Any, ca: Dctcp, delivered: int, marked: int) -> None:
        self.delivered += delivered
        self.delivered_ce += marked
        self.snd_una = self.snd_nxt
        self.snd_nxt += 1000
        ca.in_ack_event(self, 0)


def test_alpha_is_the_running_mean_of_the_marked_fraction():
    sk: Any = Sender()
    ca = Dctcp()
    ca.init(sk)
    assert ca.alpha == DCTCP_MAX_ALPHA
    assert ca.ssthresh(sk) == 50  # all are marked, as far as is known: half
    for _ in range(200):
        sk.round(ca, 100, 0)
    assert ca.alpha == 0
    assert ca.ssthresh(sk) == 100
    for _ in range(200):
        sk.round(ca, 100, 25)
    assert ca.alpha == pytest.approx(256, abs=16)
    assert ca.ssthresh(sk) == pytest.approx(100 * (1 - ca.alpha / 2048), abs=1)
    enabled, _, alpha, ab_ecn, ab_tot = unpack("=HHIII", ca.pack_info(sk))
    assert (enabled, alpha, ab_ecn, ab_tot) == (1, ca.alpha, 0, 0)
    sk.delivered += 4
    sk.delivered_ce += 1
    assert unpack("=HHIII", ca.pack_info(sk))[3:] == (1000, 4000)
    before = ca.alpha
    ca.in_ack_event(sk, 0)  # the round is not over: nothing is taken in
    assert ca.alpha == before


def test_a_loss_halves_and_an_undo_takes_it_back():
    sk: Any = Sender()
    ca = Dctcp()
    ca.init(sk)
    ca.set_state(sk, 3)
    assert sk.snd_ssthresh == 50
    sk.snd_cwnd = 50
    assert ca.undo_cwnd(sk) == 100
