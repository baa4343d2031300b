"""The words of `ss`: those of iproute2, in its order. Held against the system's `ss` in tests/interop/test_ss.py."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.transport.tcp.harness import Pair, Peer, flags, sock_of
from tests.transport.tcp.keys import set_md5
from tests.transport.tcp.test_md5 import transfer
from usernet.cli.tools.sockinfo import UNLIMITED, bandwidth, congestion_words, describe_info, duration
from usernet.cli.tools.sockstat import ss
from usernet.transport.tcp.info import FIELDS
from usernet.wire.tcp import ACK, SYN

MSEC = 1_000_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, ""), (5, "005ms"), (204, "204ms"), (1000, "1sec"), (1234, "1.234ms"), (9999, "9.999ms"), (10500, "10sec"),
        (60_000, "1min"), (61_500, "1min1sec"), (119_000, "1min59sec"), (599_000, "9min59sec"), (659_000, "10min"),
        (7_199_000, "119min"), (-5, ""),
    ],
)  # fmt: skip
def test_durations(ms: int, text: str):
    assert duration(ms * MSEC) == text


@pytest.mark.parametrize(
    ("bits", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (848e6, "848M"), (32.768e9, "32.8G"), (2.5e12, "2.5T"), (123456, "123k")],
)
def test_rates(bits: float, text: str):
    assert bandwidth(bits, False) == text
    assert bandwidth(bits, True) == str(int(bits))


def test_congestion_controls():
    bbr = struct.pack("=5I", 4096, 1, 12345, 739, 512)
    assert congestion_words("bbr", bbr, True) == [
        f"bbr:(bw:{(1 << 32 | 4096) * 8}bps,mrtt:12.345,pacing_gain:2.88672,cwnd_gain:2)"
    ]
    assert congestion_words("bbr", struct.pack("=5I", 0, 0, 0, 0, 0), False) == ["bbr:(bw:0bps,mrtt:0)"]
    assert congestion_words("dctcp", struct.pack("=2H3I", 1, 1, 1024, 5, 6), False) == [
        "dctcp:(ce_state:1,alpha:1024,ab_ecn:5,ab_tot:6)"
    ]
    assert congestion_words("dctcp-reno", bytes(16), False) == ["dctcp:fallback_mode"]
    assert congestion_words("cubic", b"", False) == []


def test_every_word_in_its_place():
    info = dict.fromkeys(FIELDS, 1) | {
        "options": 63, "wscale": 7 | 10 << 4, "rto": 204_000, "rtt": 5565, "rttvar": 11103, "ato": 40_000,
        "snd_mss": 1448, "snd_cwnd": 10, "snd_ssthresh": 7, "pacing_rate": 125_000, "max_pacing_rate": 1_250_000,
        "delivery_rate": 250_000, "busy_time": 8_000, "rwnd_limited": 4_000, "sndbuf_limited": 1_000, "rcv_rtt": 234,
        "min_rtt": 8, "reordering": 5, "state": 1,
    }  # fmt: skip
    assert describe_info(info, "cubic", numeric=False) == (
        "ts sack ecn ecnseen fastopen cubic wscale:7,10 rto:204 backoff:1 rtt:5.565/11.103 ato:40 mss:1448 pmtu:1 "
        "rcvmss:1 advmss:1 cwnd:10 ssthresh:7 bytes_sent:1 bytes_retrans:1 bytes_acked:1 bytes_received:1 segs_out:1 "
        "segs_in:1 data_segs_out:1 data_segs_in:1 send 20.8Mbps lastsnd:1 lastrcv:1 lastack:1 "
        "pacing_rate 1Mbps/10Mbps delivery_rate 2Mbps delivered:1 delivered_ce:1 app_limited busy:8ms "
        "rwnd_limited:4ms(50.0%) sndbuf_limited:1ms(12.5%) unacked:1 retrans:1/1 lost:1 sacked:1 dsack_dups:1 "
        "fackets:1 reordering:5 reord_seen:1 rcv_rtt:0.234 rcv_space:1 rcv_ssthresh:1 notsent:1 minrtt:0.008 "
        "rcv_ooopack:1 snd_wnd:1 rcv_wnd:1 rehash:1"
    )
    # What the handshake agreed on goes with -o.
    assert describe_info(info, "cubic", options=False).startswith("cubic wscale:7,10 ")


def test_what_is_zero_or_unknown_is_left_out():
    info = dict.fromkeys(FIELDS, 0) | {
        "reordering": 3, "rto": 3_000_000, "snd_ssthresh": 0x7FFFFFFF, "pacing_rate": UNLIMITED, "min_rtt": 0xFFFFFFFF,
    }  # fmt: skip
    assert describe_info(info, "reno") == "reno"


def lines(pair: Pair, *args: str) -> list[str]:
    return ss(pair.left, *args).splitlines()


def test_timers_and_details():
    with Pair() as pair:
        client, server = pair.connected()
        client.setsockopt(1, 9, 1)
        (line,) = lines(pair, "-tHoe")
        assert line.endswith("timer:(keepalive,120min,0) ino:0 sk:1 <->")
        client.shutdown(1)
        assert " <--" in lines(pair, "-tHe")[0]
        server.send(b"x" * 100)
        assert "timer:(on,200ms,0)" in ss(pair.right, "-tHo")
        client.setsockopt(1, 36, 7)
        assert " fwmark:0x7 " in lines(pair, "-tHe")[0]


def test_a_closed_window_is_persist():
    with Pair() as pair:
        client, _ = pair.connected()
        client.setsockopt(1, 7, 1 << 20)
        while True:
            try:
                client.send(b"x" * 65536)
            except BlockingIOError:
                break
            pair.run(0.01)
            if sock_of(client).icsk_pending == 3:
                break
        pair.run(1.5)
        assert "timer:(persist," in ss(pair.left, "-tHo")
        assert f",{sock_of(client).probes_out})" in ss(pair.left, "-tHo")


def test_memory_and_keys():
    with Pair() as pair:
        server = pair.listener()
        set_md5(server, "10.0.0.0", b"all, \\ of you\x01", flags=1, prefix=24)
        text = ss(pair.right, "-tlHim")
        assert "skmem:(r0,rb131072,t0,tb16384,f0,w0,o136,bl0,d0) cubic cwnd:10" in text
        assert text.endswith("md5keys:10.0.0.0/24=all\\054\\040\\134\\040of\\040you\\001")
        assert len(ss(pair.right, "-tlHimO").splitlines()) == 1


def test_requests_are_shown_with_all():
    with Peer() as peer:
        peer.port, peer.local_port = 5000, 80
        peer.listen()
        peer.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK))
        assert "SYN-RECV" not in ss(peer.stack, "-t")
        peer.run(1.1)
        (line,) = [line for line in ss(peer.stack, "-taoe").splitlines() if "SYN-RECV" in line]
        assert "timer:(on,1.9" in line and ",1) ino:0" in line
        peer.send(4, 1)


def test_bbr_and_json():
    import json

    with Pair() as pair:
        server = pair.listener()
        client = pair.socket(pair.left)
        client.setsockopt(6, 13, b"bbr")
        client.connect_ex(("10.0.0.2", 80))
        pair.run(0.5)
        accepted = pair.accept(server)
        data = b"x" * 100_000
        assert transfer(pair, client, accepted, data) == data
        text = ss(pair.left, "-tHin")
        assert " bbr wscale:" in text and "bbr:(bw:" in text and ",pacing_gain:" in text
        (entry,) = [row for row in json.loads(ss(pair.left, "-tjie")) if row["state"] == "ESTAB"]
        told: dict[str, Any] = entry["cc_info"]
        assert set(told) >= {"bw", "mrtt"} and entry["congestion"] == "bbr"
        assert entry["details"].startswith("ino:0 sk:")
