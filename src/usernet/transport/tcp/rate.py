"""Delivery-rate samples: how fast data reached the peer lately (Linux: tcp_rate.c; draft-cheng-iccrg-delivery-rate).

Each sent segment remembers how much had been delivered when it left, and when. When it is acknowledged, what was
delivered since, over the longer of the time it took to send and the time it took to be acknowledged, is a sample of the
bottleneck's rate. Congestion controls get one per acknowledgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import TCPCB_SACKED_ACKED

if TYPE_CHECKING:
    from usernet.transport.tcp.segment import TxInfo
    from usernet.transport.tcp.sock import TcpSock


@final
class RateSample:
    """What one acknowledgement tells (Linux: `struct rate_sample`). Times in ns, `rtt_us` in µs, counts in packets.

    delivered: packets delivered over interval; -1 for no sample; delivered_ce: those of them reported as marked (CE).
    lost: lost since the sampled packet was sent. losses: newly marked lost. acked_sacked: newly delivered.
    prior_in_flight: before the acknowledgement; tx_in_flight: when the sampled packet had been sent.
    """

    __slots__ = (
        "acked_sacked", "delivered", "delivered_ce", "interval", "is_ack_delayed", "is_app_limited", "is_ece",
        "is_retrans", "last_end_seq", "losses", "lost", "prior_delivered", "prior_delivered_ce", "prior_in_flight",
        "prior_lost", "prior_mstamp", "rcv_interval", "rtt_us", "snd_interval", "tx_in_flight",
    )  # fmt: skip

    def __init__(self) -> None:
        self.prior_mstamp: int = 0
        self.prior_delivered: int = 0
        self.prior_delivered_ce: int = 0
        self.prior_lost: int = 0
        self.tx_in_flight: int = 0
        self.delivered: int = 0
        self.delivered_ce: int = 0
        self.lost: int = 0
        self.interval: int = 0
        self.snd_interval: int = 0
        self.rcv_interval: int = 0
        self.rtt_us: int = -1
        self.losses: int = 0
        self.acked_sacked: int = 0
        self.prior_in_flight: int = 0
        self.last_end_seq: int = 0
        self.is_app_limited: bool = False
        self.is_retrans: bool = False
        self.is_ack_delayed: bool = False
        self.is_ece: bool = False


def rate_skb_sent(sk: TcpSock, skb: SKBuff, tx: TxInfo) -> None:
    """Remember the state of delivery with a segment that leaves (Linux: tcp_rate_skb_sent)."""
    if not sk.packets_out:
        sk.first_tx_mstamp = sk.delivered_mstamp = tx.mstamp
    tx.first_tx_mstamp = sk.first_tx_mstamp
    tx.delivered_mstamp = sk.delivered_mstamp
    tx.delivered = sk.delivered
    tx.delivered_ce = sk.delivered_ce
    tx.lost = sk.lost
    # A retransmission is not counted yet, nor is new data.
    tx.in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out + skb.gso_segs
    tx.app_limited = sk.app_limited != 0


def rate_skb_delivered(sk: TcpSock, skb: SKBuff, sample: RateSample) -> None:
    """A segment was acknowledged or selectively acknowledged: the one sent last makes the sample."""
    tx: TxInfo = skb.tx
    if not tx.delivered_mstamp:
        return
    if not sample.prior_delivered or (
        tx.mstamp > sk.first_tx_mstamp
        or (tx.mstamp == sk.first_tx_mstamp and (sample.last_end_seq - skb.end_seq) & 0x80000000)
    ):
        sample.prior_delivered = tx.delivered
        sample.prior_delivered_ce = tx.delivered_ce
        sample.prior_lost = tx.lost
        sample.tx_in_flight = tx.in_flight
        sample.prior_mstamp = tx.delivered_mstamp
        sample.is_app_limited = tx.app_limited
        sample.is_retrans = bool(skb.sacked & 0x92)  # TCPCB_RETRANS
        sample.last_end_seq = skb.end_seq
        sk.first_tx_mstamp = tx.mstamp
        sample.snd_interval = tx.mstamp - tx.first_tx_mstamp
    if skb.sacked & TCPCB_SACKED_ACKED:
        # It is acknowledged now and will be again cumulatively: count it once.
        tx.delivered_mstamp = 0


def rate_gen(sk: TcpSock, delivered: int, lost: int, sack_reneging: bool, sample: RateSample) -> None:
    """Finish the sample of an acknowledgement that delivered and lost so much (Linux: tcp_rate_gen)."""
    if sk.app_limited and (sk.app_limited - sk.delivered) & 0x80000000:
        sk.app_limited = 0
    if delivered:
        sk.delivered_mstamp = sk.loop.now
    sample.acked_sacked = delivered
    sample.losses = lost
    if not sample.prior_mstamp or sack_reneging:
        sample.delivered = -1
        sample.interval = -1
        return
    sample.delivered = sk.delivered - sample.prior_delivered
    sample.delivered_ce = sk.delivered_ce - sample.prior_delivered_ce
    sample.lost = sk.lost - sample.prior_lost
    sample.rcv_interval = sk.loop.now - sample.prior_mstamp
    sample.interval = max(sample.snd_interval, sample.rcv_interval)
    if sample.interval // 1000 < sk.min_rtt_us():
        # Faster than a round trip: an artefact of the measurement.
        sample.interval = -1
        return
    if (
        not sample.is_app_limited
        or sample.delivered * sk.rate_interval >= sk.rate_delivered * sample.interval
    ):
        sk.rate_delivered = sample.delivered
        sk.rate_interval = sample.interval
        sk.rate_app_limited = sample.is_app_limited


def rate_check_app_limited(sk: TcpSock) -> None:
    """The application writes, with nothing waiting and the window open: the flow is limited by it (tcp_rate_check…)."""
    if (
        (sk.write_seq - sk.snd_nxt) & 0xFFFFFFFF < sk.mss_cache
        and sk.wmem_alloc == 0
        and sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out < sk.snd_cwnd
        and sk.lost_out <= sk.retrans_out
    ):
        sk.app_limited = (sk.delivered + sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out) or 1
