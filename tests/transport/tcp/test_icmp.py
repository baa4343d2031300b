"""ICMP errors about a connection's segments: what the scripts (tcp_icmp_*, tcp_mtu_*) don't show."""

from __future__ import annotations

import errno
import socket as std

import pytest

from tests.transport.tcp.harness import Peer, flags, icmp_packet, length, seq, sock_of
from usernet.transport.tcp.const import TCP_CLOSE
from usernet.wire.tcp import SYN

IP_MTU_DISCOVER = 10
DF = 0x40


def unreachable(peer: Peer, code: int, info: int = 0) -> None:
    """An error about the packet that the stack sent last."""
    peer.packet(icmp_packet(3, code, info, peer.last[:28]))


@pytest.mark.parametrize(
    ("discover", "dont_fragment"), [(0, False), (1, True), (2, True), (3, False), (4, False), (5, False)]
)
def test_dont_fragment_goes_by_the_option(discover: int, dont_fragment: bool) -> None:
    """Linux: ip_dont_fragment."""
    with Peer() as peer:
        peer.active(lambda sock: sock.setsockopt(std.IPPROTO_IP, IP_MTU_DISCOVER, discover))
        assert bool(peer.last[6] & DF) == dont_fragment


def test_an_mtu_too_small_to_believe_is_remembered_as_an_error_and_packets_may_be_split() -> None:
    with Peer() as peer:
        sock = peer.active(lambda sock: sock.setsockopt(std.IPPROTO_IP, IP_MTU_DISCOVER, 2))
        sock.send(b"x" * 1000)
        peer.settle()
        peer.expect(length(1000))
        unreachable(peer, 4, 300)
        assert sock_of(sock).err_soft == errno.EMSGSIZE
        assert sock_of(sock).mss_cache == 512
        peer.sent()


def test_packets_are_split_where_the_mtu_is_not_believed() -> None:
    with Peer() as peer:
        sock = peer.active()
        sock.send(b"x" * 1000)
        peer.settle()
        peer.expect(length(1000))
        assert peer.last[6] & DF
        unreachable(peer, 4, 300)
        peer.expect(seq(1), length(512))
        assert not peer.last[6] & DF
        peer.sent()


def test_an_error_about_a_syn_that_was_sent_again_ends_the_attempt() -> None:
    with Peer() as peer:
        sock = peer.dial()
        peer.expect(flags(SYN))
        peer.expect_after(1.0, flags(SYN), within=0.01)
        unreachable(peer, 1)
        sk = sock_of(sock)
        assert (sk.state, sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR)) == (TCP_CLOSE, errno.EHOSTUNREACH)
        assert not sk.retransmit_timer.pending


def test_time_exceeded_takes_no_doubling_back() -> None:
    with Peer() as peer:
        sock = peer.active(rtt=0.1)
        sock.send(b"x")
        peer.settle()
        peer.expect(length(1))
        for _ in range(3):
            peer.run(1.3)
        peer.sent()
        before = sock_of(sock).backoff
        assert before > 1
        peer.packet(icmp_packet(11, 0, 0, peer.last[:28]))
        assert sock_of(sock).backoff == before
        assert sock_of(sock).err_soft == errno.EHOSTUNREACH
