"""pipeACK, and what a window that is not in use counts for (RFC 7661). The whole is in a conformance script."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.compiled import interpreted_only
from usernet.transport.tcp.cwv import NON_VALIDATED_PERIOD, CwndValidation

pytestmark = interpreted_only  # Sender stands in for a connection

SEC = 1_000_000_000


class Sender:
    def __init__(self) -> None:
        self.loop: Any = type("Loop", (), {"now": 100 * SEC})()
        self.srtt_us = 8 * 100_000
        self.delivered = self.snd_una = self.snd_nxt = 0
        self.snd_cwnd, self.snd_ssthresh = 100, 60
        self.packets_out = self.sacked_out = self.lost_out = self.retrans_out = self.total_retrans = 0

    def round(self, cwv: CwndValidation, delivered: int) -> None:
        self.loop.now += 100_000_000
        self.delivered += delivered
        self.snd_una, self.snd_nxt = self.snd_nxt, self.snd_nxt + 1000
        cwv.acked(self)  # type: ignore[arg-type]


@pytest.fixture
def sk() -> Any:
    return Sender()


def test_pipe_ack_is_the_most_of_the_last_second(sk):
    cwv = CwndValidation(sk)
    assert cwv.pipe_ack(sk) == -1 and cwv.validated(sk)
    for delivered in (30, 60, 20):
        sk.round(cwv, delivered)
    assert cwv.pipe_ack(sk) == 60 and cwv.validated(sk)
    for _ in range(12):
        sk.round(cwv, 10)
    assert cwv.pipe_ack(sk) == 10 and not cwv.validated(sk)
    sk.loop.now += 2 * SEC
    assert cwv.pipe_ack(sk) == 0


def test_five_minutes_then_half(sk):
    cwv = CwndValidation(sk)
    sk.round(cwv, 10)
    cwv.check(sk, 10)
    sk.loop.now += NON_VALIDATED_PERIOD - SEC
    cwv.check(sk, 10)
    assert (sk.snd_cwnd, sk.snd_ssthresh) == (100, 60)
    sk.loop.now += 2 * SEC
    cwv.check(sk, 10)
    assert (sk.snd_cwnd, sk.snd_ssthresh) == (50, 75)
    for _ in range(4):
        sk.loop.now += NON_VALIDATED_PERIOD + SEC
        cwv.check(sk, 10)
    assert sk.snd_cwnd == 10


def test_a_loss_counts_what_was_in_use(sk):
    cwv = CwndValidation(sk)
    sk.round(cwv, 30)
    sk.packets_out, sk.sacked_out, sk.lost_out = 20, 5, 1
    cwv.before_reduction(sk)
    assert sk.snd_cwnd == 30
    sk.total_retrans += 4
    cwv.after_reduction(sk)
    assert sk.snd_cwnd == 13
    # A window that is in use is the control's alone.
    sk.snd_cwnd = 40
    sk.round(cwv, 25)
    cwv.before_reduction(sk)
    cwv.after_reduction(sk)
    assert sk.snd_cwnd == 40
