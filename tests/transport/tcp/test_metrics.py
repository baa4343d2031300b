"""What TCP remembers of destinations (metrics, metrics_show), and what it makes of it."""

from __future__ import annotations

import socket as std

import pytest

from tests.transport.tcp.harness import LOCAL, MSEC, REMOTE, SEC, Peer, sock_of
from usernet.net.dst import RTAX_CWND, RTAX_LOCK, RTAX_REORDERING, RTAX_RTT, RTAX_RTTVAR, RTAX_SSTHRESH, Dst
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.const import TCP_INFINITE_SSTHRESH, TCP_TIMEOUT_FALLBACK
from usernet.transport.tcp.metrics import TCP_METRICS_TIMEOUT, TcpMetric, TcpMetrics, init_metrics, update_metrics


class Route(Dst):
    """A route that only has metrics."""

    def __init__(self, metrics: dict[int, int] | None = None) -> None:
        super().__init__(None, REMOTE, LOCAL, None)
        self.metrics = metrics or {}


def known(peer: Peer) -> TcpMetric:
    entry = peer.tcp.metrics.find(LOCAL, REMOTE, None, peer.clock.now())
    assert entry is not None
    return entry


def learned(
    peer: Peer, sock: UserSocket, *, srtt: int = 100_000, mdev: int = 1, cwnd: int = 30, ssthresh: int = 20
) -> TcpMetric:
    """What is kept of a connection with these values (µs, packets)."""
    sk = sock_of(sock)
    sk.srtt_us, sk.mdev_us, sk.snd_cwnd, sk.snd_ssthresh = srtt * 8, mdev * 4, cwnd, ssthresh
    update_metrics(sk)
    return known(peer)


class TestTable:
    def test_a_route_is_what_an_entry_starts_with(self) -> None:
        locks = 1 << RTAX_RTT | 1 << RTAX_CWND
        metrics = {
            RTAX_RTT: 3, RTAX_RTTVAR: 2, RTAX_SSTHRESH: 7, RTAX_CWND: 9, RTAX_REORDERING: 5, RTAX_LOCK: locks,
        }  # fmt: skip
        entry = TcpMetrics().make(LOCAL, REMOTE, Route(metrics), 5)
        assert (entry.rtt, entry.rttvar, entry.ssthresh, entry.cwnd, entry.reordering) == (24_000, 8_000, 7, 9, 5)
        assert not entry.free(RTAX_RTT)
        assert entry.free(RTAX_RTTVAR)
        assert not entry.free(RTAX_CWND)

    def test_what_is_old_is_the_routes_again_and_the_cookie_stays(self) -> None:
        table = TcpMetrics()
        entry = table.make(LOCAL, REMOTE, Route(), 5)
        entry.rtt, entry.cwnd, entry.cookie = 800, 30, b"12345678"
        assert table.find(LOCAL, REMOTE, Route(), 5 + TCP_METRICS_TIMEOUT) is entry
        assert (entry.rtt, entry.cwnd) == (800, 30)
        assert table.find(LOCAL, REMOTE, Route({RTAX_CWND: 4}), 6 + TCP_METRICS_TIMEOUT) is entry
        assert (entry.rtt, entry.cwnd, entry.cookie) == (0, 4, b"12345678")

    def test_each_of_our_addresses_has_its_own(self) -> None:
        table = TcpMetrics()
        one, two = table.make(b"a", REMOTE, Route(), 0), table.make(b"b", REMOTE, Route(), 0)
        assert one is not two
        assert table.delete(REMOTE, b"a")
        assert table.find(b"a", REMOTE, None, 0) is None
        assert table.find(b"b", REMOTE, None, 0) is two
        assert table.delete(REMOTE)
        assert not table.delete(REMOTE)

    def test_a_peer_is_proven_by_its_round_trip(self) -> None:
        table = TcpMetrics()
        assert not table.peer_is_proven(LOCAL, REMOTE, Route(), 0)
        entry = table.make(LOCAL, REMOTE, Route(), 0)
        assert not table.peer_is_proven(LOCAL, REMOTE, Route(), 0)
        entry.rtt = 8
        assert table.peer_is_proven(LOCAL, REMOTE, Route(), 0)


class TestLearning:
    def test_the_round_trip_is_rather_too_long(self) -> None:
        with Peer() as peer:
            sock = peer.active()
            assert learned(peer, sock, srtt=80_000).rtt == 640_000
            # A shorter one counts an eighth, a longer one at once.
            assert learned(peer, sock, srtt=40_000).rtt == 600_000
            assert learned(peer, sock, srtt=90_000).rtt == 720_000

    def test_the_deviation_covers_how_far_off_it_was(self) -> None:
        with Peer() as peer:
            sock = peer.active()
            assert learned(peer, sock, srtt=80_000).rttvar == 320_000
            # Half of the difference, as both are scaled; less than is known, so it counts a quarter.
            assert learned(peer, sock, srtt=80_000, mdev=20_000).rttvar == 320_000 - (320_000 - 80_000) // 4
            assert learned(peer, sock, srtt=80_000, mdev=90_000).rttvar == 360_000

    def test_the_window_of_the_first_slow_start(self) -> None:
        with Peer(tcp_no_ssthresh_metrics_save=0) as peer:
            sock = peer.active()
            entry = learned(peer, sock, cwnd=40, ssthresh=TCP_INFINITE_SSTHRESH)
            assert (entry.cwnd, entry.ssthresh) == (40, 0)
            entry.ssthresh = 15
            entry = learned(peer, sock, cwnd=32, ssthresh=TCP_INFINITE_SSTHRESH)
            # Halfway is above what is known to be too much.
            assert (entry.cwnd, entry.ssthresh) == (40, 16)

    def test_the_window_of_congestion_avoidance(self) -> None:
        with Peer(tcp_no_ssthresh_metrics_save=0) as peer:
            sock = peer.active()
            entry = learned(peer, sock, cwnd=40, ssthresh=12)
            assert (entry.cwnd, entry.ssthresh) == (20, 20)
            entry = learned(peer, sock, cwnd=40, ssthresh=30)
            assert (entry.cwnd, entry.ssthresh) == (30, 30)

    def test_the_window_on_the_way_up_says_nothing(self) -> None:
        with Peer(tcp_no_ssthresh_metrics_save=0) as peer:
            sock = peer.active()
            sock_of(sock).reordering = 9
            entry = learned(peer, sock, cwnd=4, ssthresh=20)
            assert (entry.cwnd, entry.ssthresh, entry.reordering) == (10, 0, 9)

    def test_the_threshold_is_not_kept_unless_asked(self) -> None:
        with Peer() as peer:
            sock = peer.active()
            assert learned(peer, sock, cwnd=40, ssthresh=12).ssthresh == 0

    def test_a_connection_in_trouble_takes_the_round_trip_back(self) -> None:
        with Peer() as peer:
            sock = peer.active()
            assert learned(peer, sock).rtt
            sock_of(sock).backoff = 1
            assert learned(peer, sock).rtt == 0
            sock_of(sock).backoff = 0

    def test_nothing_is_kept_where_that_is_switched_off(self) -> None:
        with Peer(tcp_no_metrics_save=1) as peer:
            sock = peer.active()
            sock_of(sock).srtt_us = 800
            update_metrics(sock_of(sock))
            assert len(peer.tcp.metrics) == 0

    def test_what_is_locked_stays(self) -> None:
        with Peer(tcp_no_ssthresh_metrics_save=0) as peer:
            peer.stack.add_route(
                "10.0.0.2", dev="tun0", rtt=7, rttvar=3, ssthresh=50, cwnd=8, reordering=4,
                locked=("rtt", "rttvar", "ssthresh", "cwnd", "reordering"),
            )  # fmt: skip
            sock = peer.active()
            sock_of(sock).reordering = 30
            for cwnd, ssthresh in ((40, TCP_INFINITE_SSTHRESH), (40, 20), (4, 60)):
                entry = learned(peer, sock, cwnd=cwnd, ssthresh=ssthresh)
                assert (entry.rtt, entry.rttvar, entry.ssthresh, entry.cwnd) == (56_000, 12_000, 50, 8)
                assert entry.reordering == 4

    @pytest.mark.parametrize("first", ["us", "them"])
    def test_a_connection_that_ends_well_leaves_an_entry(self, first: str) -> None:
        with Peer() as peer:
            sock = peer.active(rtt=0.03)
            if first == "us":
                sock.close()
                peer.run(0.03)
                peer.send(0x11, 1, 2)
            else:
                peer.send(0x11, 1, 1)
                sock.close()
                peer.run(0.03)
                peer.send(0x10, 2, 2)
            assert known(peer).rtt == 30_000 * 8
            assert known(peer).cwnd == 10
            peer.sent()


class TestUse:
    def test_the_first_timeout_goes_by_a_longer_round_trip(self) -> None:
        with Peer() as peer:
            peer.tcp.metrics.make(LOCAL, REMOTE, Route(), peer.clock.now()).rtt = 8 * 500_000
            sock = peer.active(rtt=0.01)
            assert sock_of(sock).rto == 1500 * MSEC
            assert sock_of(sock).srtt_us == 80_000

    def test_a_shorter_one_changes_nothing(self) -> None:
        with Peer() as peer:
            peer.tcp.metrics.make(LOCAL, REMOTE, Route(), peer.clock.now()).rtt = 8 * 5_000
            sock = peer.active(rtt=0.01)
            assert sock_of(sock).rto == 210 * MSEC

    def test_no_measure_at_all_is_three_seconds(self) -> None:
        with Peer() as peer:
            sock = peer.active()
            sk = sock_of(sock)
            sk.srtt_us = 0
            init_metrics(sk)
            assert sk.rto == TCP_TIMEOUT_FALLBACK == 3 * SEC
            assert sk.mdev_us == 3_000_000

    def test_the_threshold_and_reordering_are_taken_over(self) -> None:
        with Peer(tcp_no_ssthresh_metrics_save=0) as peer:
            entry = peer.tcp.metrics.make(LOCAL, REMOTE, Route(), peer.clock.now())
            entry.ssthresh, entry.reordering = 17, 8
            sk = sock_of(peer.active())
            assert (sk.snd_ssthresh, sk.reordering, sk.snd_cwnd) == (17, 8, 10)

    def test_a_locked_window_is_never_passed(self) -> None:
        with Peer() as peer:
            peer.stack.add_route("10.0.0.2", dev="tun0", cwnd=4, locked=["cwnd"])
            # As in Linux, only once the destination is in the cache.
            assert sock_of(peer.active()).snd_cwnd == 10
            assert peer.sock is not None
            learned(peer, peer.sock)
            peer.port = 81
            sock = peer.active()
            assert sock_of(sock).snd_cwnd == 4
            sock.send(b"x" * 30_000)
            for turn in range(5):
                peer.settle()
                sent = [segment for segment in peer.sent() if segment.payload]
                assert sum(segment.segs for segment in sent) <= 4
                peer.send(0x10, 1, sent[-1].end, win=65535)
                assert sock_of(sock).snd_cwnd == 4, turn
            peer.sent()

    def test_the_option_bounds(self) -> None:
        with Peer() as peer:
            sock = peer.active(rtt=0.01)
            assert sock.getsockopt(std.IPPROTO_TCP, 45) == 200_000
            assert sock.getsockopt(std.IPPROTO_TCP, 46) == 200_000
            sock.setsockopt(std.IPPROTO_TCP, 45, 10_000)
            sock.setsockopt(std.IPPROTO_TCP, 46, 5_000)
            assert sock.getsockopt(std.IPPROTO_TCP, 45) == 10_000
            assert sock.getsockopt(std.IPPROTO_TCP, 46) == 5_000
            for option, value in ((45, 1_999), (45, 200_001), (46, 1_999), (46, 200_001)):
                with pytest.raises(OSError, match="expected 2000 to 200000"):
                    sock.setsockopt(std.IPPROTO_TCP, option, value)
