"""The registry, and that a controller of one's own gets Linux's callbacks."""

from __future__ import annotations

import errno
import socket
from typing import Any, cast

import pytest

from tests.support.compiled import interpreted_only
from tests.transport.tcp.congestion.bottleneck import Bulk, hosts
from tests.transport.tcp.harness import Pair, code, sock_of
from usernet.lab import Lab
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.congestion import base
from usernet.transport.tcp.congestion.base import (
    CA_EVENT_COMPLETE_CWR,
    CA_EVENT_TX_START,
    CongestionControl,
    cong_avoid_ai,
    find,
    register,
    reno_cong_avoid,
    slow_start,
    unregister,
)
from usernet.transport.tcp.const import TCP_CA_OPEN, TCP_CA_RECOVERY


class Window:
    """The part of a socket that the shared arithmetic needs."""

    def __init__(self, cwnd: int, ssthresh: int = 1 << 30, clamp: int = 1 << 32) -> None:
        self.snd_cwnd = cwnd
        self.snd_ssthresh = ssthresh
        self.snd_cwnd_clamp = clamp
        self.snd_cwnd_cnt = 0


@interpreted_only
def test_slow_start_stops_at_the_threshold_and_says_what_is_left():
    window: Any = Window(10, ssthresh=14)
    assert slow_start(window, 3) == 0 and window.snd_cwnd == 13
    assert slow_start(window, 3) == 2 and window.snd_cwnd == 14
    clamped: Any = Window(10, clamp=11)
    assert slow_start(clamped, 5) == 0 and clamped.snd_cwnd == 11


@interpreted_only
def test_additive_increase_is_one_packet_a_window():
    window: Any = Window(10)
    for _ in range(9):
        cong_avoid_ai(window, 10, 1)
    assert window.snd_cwnd == 10
    cong_avoid_ai(window, 10, 1)
    assert (window.snd_cwnd, window.snd_cwnd_cnt) == (11, 0)
    cong_avoid_ai(window, 2, 7)  # an acknowledgement for many
    assert (window.snd_cwnd, window.snd_cwnd_cnt) == (14, 1)


class Recorder(CongestionControl):
    """Reno that notes what it is told."""

    __slots__ = ("told",)

    name = "recorder"

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def init(self, sk):
        self.told.append(("init", sk.snd_cwnd))

    def release(self, sk):
        self.told.append(("release", 0))

    def ssthresh(self, sk):
        self.told.append(("ssthresh", sk.snd_cwnd))
        return max(sk.snd_cwnd >> 1, 2)

    def cong_avoid(self, sk, ack, acked):
        self.told.append(("cong_avoid", acked))
        reno_cong_avoid(sk, acked)

    def set_state(self, sk, state):
        self.told.append(("set_state", state))

    def cwnd_event(self, sk, event):
        self.told.append(("cwnd_event", event))

    def in_ack_event(self, sk, flag):
        self.told.append(("in_ack_event", flag))

    def pkts_acked(self, sk, count, rtt_us, in_flight):
        self.told.append(("pkts_acked", rtt_us))

    def skb_marked_lost(self, sk, skb):
        self.told.append(("skb_marked_lost", skb.gso_segs))

    def pack_info(self, sk):
        return b"mine"


@pytest.fixture
def recorder():
    yield register(Recorder)
    unregister(Recorder)


def test_a_controller_of_ones_own_gets_linuxs_callbacks(recorder):
    assert "recorder" in base.available()
    with Lab(seed=3) as lab:
        a, b = hosts(lab, "recorder", delay=0.01, rate=20e6, loss=0.005)
        bulk = Bulk(lab, a, b)
        lab.run(until=3)
        told = cast(Any, bulk.sk.ca).told
        kinds = {name for name, _ in told}
        assert kinds == {
            "init", "ssthresh", "cong_avoid", "set_state", "cwnd_event", "in_ack_event", "pkts_acked",
            "skb_marked_lost",
        }  # fmt: skip
        assert told[0] == ("init", 10)
        assert ("set_state", TCP_CA_RECOVERY) in told and ("set_state", TCP_CA_OPEN) in told
        assert ("cwnd_event", CA_EVENT_TX_START) in told and ("cwnd_event", CA_EVENT_COMPLETE_CWR) in told
        rtts = [value for name, value in told if name == "pkts_acked" and value > 0]
        assert min(rtts) >= 20_000
        assert bulk.received > 2_000_000


def test_what_must_be_defined_and_what_a_name_is():
    class NoSsthresh(CongestionControl):
        name = "half"

        def cong_avoid(self, sk, ack, acked):
            pass

    class NoGrowth(CongestionControl):
        name = "half"

        def ssthresh(self, sk):
            return 2

    class Ruler(NoGrowth):
        name = "ruler"

        def cong_control(self, sk, ack, flag, sample):
            pass

    for wrong in (NoSsthresh, NoGrowth):
        with pytest.raises(ValueError, match="must define"):
            register(wrong)
    for name in ("", "a name", "n" * 16):
        Ruler.name = name
        with pytest.raises(ValueError, match="expected a name"):
            register(Ruler)
    Ruler.name = "reno"
    find("reno")
    with pytest.raises(ValueError, match="registered already"):
        register(Ruler)
    Ruler.name = "ruler"
    register(Ruler)
    assert Ruler.has_cong_control and not Ruler.has_in_ack_event
    unregister(Ruler)
    with pytest.raises(OSError) as caught:
        find("ruler")
    assert caught.value.errno == errno.ENOENT


def test_of_a_socket_by_its_option(recorder):
    with Pair() as pair:
        client, server = pair.connected()

        def get(sock: UserSocket) -> bytes:
            value = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert isinstance(value, bytes)
            return value.rstrip(b"\0")

        assert get(client) == b"cubic"
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"recorder")
        assert get(client) == b"recorder"
        assert client.getsockopt(socket.IPPROTO_TCP, 26, 20) == b"mine"
        old: Any = sock_of(client).ca
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        assert old.told == [("init", 10), ("release", 0)]
        assert code(client.setsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"none such") == errno.ENOENT
        assert get(client) == b"reno" and get(server) == b"cubic"


def test_children_take_the_default_unless_the_listener_was_given_one():
    with Pair() as pair:
        plain, chosen = pair.listener(80), pair.listener(81)
        chosen.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        pair.right.sysctl["net.ipv4.tcp_congestion_control"] = "bbr"
        for port in (80, 81):
            pair.dial(port)
        pair.run(1.0)
        names = [sock_of(pair.accept(server)).ca.name for server in (plain, chosen)]
        assert names == ["bbr", "reno"]


def test_by_the_route():
    with Pair() as pair:
        pair.left.add_route("10.0.0.2/32", dev="eth0", congctl="reno")
        client, server = pair.connected()
        assert sock_of(client).ca.name == "reno"
        assert sock_of(server).ca.name == "cubic"


def test_the_sysctls_that_list_them(recorder):
    with Pair() as pair:
        table = pair.left.sysctl
        names = str(table["net.ipv4.tcp_available_congestion_control"]).split()
        assert {"bbr", "bbr3", "cubic", "dctcp", "recorder", "reno"} <= set(names)
        table["net.ipv4.tcp_allowed_congestion_control"] = "reno cubic"
        assert table["net.ipv4.tcp_allowed_congestion_control"] == "reno cubic"
        with pytest.raises(ValueError, match="none-such"):
            table["net.ipv4.tcp_allowed_congestion_control"] = "none-such"
