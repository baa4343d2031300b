"""BBR: its modes in order, its model of the path, and what losses do to it."""

from __future__ import annotations

import socket
from struct import unpack
from typing import Any

from tests.transport.tcp.congestion.bottleneck import Bulk, hosts
from usernet.lab import Lab
from usernet.net.pacing import SK_PACING_NEEDED
from usernet.transport.tcp.congestion.bbr import CYCLE_LEN, HIGH_GAIN
from usernet.transport.tcp.congestion.bbr_model import (
    BBR_DRAIN,
    BBR_PROBE_BW,
    BBR_PROBE_RTT,
    BBR_STARTUP,
    BBR_UNIT,
)


def test_startup_drain_probe_and_a_look_at_the_round_trip():
    with Lab(seed=1) as lab:
        a, b = hosts(lab, "bbr", delay=0.01, rate=8e6)
        bulk = Bulk(lab, a, b)
        modes: list[int] = []
        phases = set()
        lab.run(until=0.05)
        sk = bulk.sk
        assert sk.pacing_status == SK_PACING_NEEDED
        ca: Any = sk.ca
        assert ca.pacing_gain == HIGH_GAIN
        for step in range(1, 1400):
            lab.run(until=0.05 + step * 0.01)
            if not modes or modes[-1] != ca.mode:
                modes.append(ca.mode)
            phases.add(ca.cycle_idx)
        assert modes[:4] == [BBR_STARTUP, BBR_DRAIN, BBR_PROBE_BW, BBR_PROBE_RTT]
        assert set(modes[4:]) <= {BBR_PROBE_BW, BBR_PROBE_RTT}
        assert phases == set(range(CYCLE_LEN))
        # The model: 8 Mbit/s less headers, and 20 ms.
        bw_lo, bw_hi, min_rtt, pacing_gain, _ = unpack("=IIIII", ca.pack_info(sk))
        assert bw_hi == 0
        assert 0.93 * 1e6 < bw_lo < 1e6
        assert 20_000 <= min_rtt < 24_000
        assert pacing_gain in (BBR_UNIT, BBR_UNIT * 5 // 4, BBR_UNIT * 3 // 4)
        assert bulk.received * 8 / 14 > 0.9 * 8e6
        # It keeps the queue short: twice the bandwidth-delay product in flight at most.
        assert sk.srtt_us >> 3 < 2 * 20_000


def test_losses_by_chance_hardly_slow_it_down():
    rates = {}
    for loss in (0.0, 0.02):
        with Lab(seed=2) as lab:
            a, b = hosts(lab, "bbr", delay=0.01, rate=8e6, loss=loss)
            bulk = Bulk(lab, a, b)
            lab.run(until=6)
            rates[loss] = bulk.received
            assert (bulk.sk.total_retrans > 0) is bool(loss)
    assert rates[0.02] > 0.85 * rates[0.0]


def test_it_restarts_at_the_known_rate_after_idleness():
    with Lab(seed=4) as lab:
        a, b = hosts(lab, "bbr", delay=0.01, rate=8e6)
        done: list[Any] = []

        def serve() -> None:
            with b.socket() as listener:
                listener.bind(("", 80))
                listener.listen()
                connection, _ = listener.accept()
                with connection:
                    while connection.recv(1 << 20):
                        pass

        def send() -> None:
            with a.socket() as sock:
                sock.connect(("10.0.0.2", 80))
                assert sock._socket is not None
                sk: Any = sock._socket.sk
                ca: Any = sk.ca
                sock.sendall(bytes(2_000_000))
                lab.sleep(3)
                assert ca.mode == BBR_PROBE_BW
                known = ca.bw.value
                sock.sendall(bytes(100_000))
                assert ca.idle_restart
                assert ca.bw.value == known
                assert sk.pacing_rate == ca._pacing_rate(sk, known, BBR_UNIT)
                assert sk.snd_cwnd > 20  # no slow start after idle for one that rules alone
                done.append(sock.getsockopt(socket.IPPROTO_TCP, 26, 20))

        lab.spawn(serve, daemon=True)
        lab.spawn(send)
        lab.run()
        assert len(done[0]) == 20
