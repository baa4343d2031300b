"""TCP's constants: states, flags of segments in the queues, limits, and the arithmetic of sequence numbers.

Names and numbers are Linux's (include/net/tcp.h, tcp_states.h). Times are nanoseconds unless a name ends in _us.
"""

from __future__ import annotations

from typing import Final

TCP_ESTABLISHED: Final = 1
TCP_SYN_SENT: Final = 2
TCP_SYN_RECV: Final = 3
TCP_FIN_WAIT1: Final = 4
TCP_FIN_WAIT2: Final = 5
TCP_TIME_WAIT: Final = 6
TCP_CLOSE: Final = 7
TCP_CLOSE_WAIT: Final = 8
TCP_LAST_ACK: Final = 9
TCP_LISTEN: Final = 10
TCP_CLOSING: Final = 11
TCP_NEW_SYN_RECV: Final = 12

STATE_NAMES: Final = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip

TCPF_ESTABLISHED: Final = 1 << TCP_ESTABLISHED
TCPF_SYN_SENT: Final = 1 << TCP_SYN_SENT
TCPF_SYN_RECV: Final = 1 << TCP_SYN_RECV
TCPF_FIN_WAIT1: Final = 1 << TCP_FIN_WAIT1
TCPF_FIN_WAIT2: Final = 1 << TCP_FIN_WAIT2
TCPF_CLOSE: Final = 1 << TCP_CLOSE
TCPF_CLOSE_WAIT: Final = 1 << TCP_CLOSE_WAIT
TCPF_LAST_ACK: Final = 1 << TCP_LAST_ACK
TCPF_LISTEN: Final = 1 << TCP_LISTEN
TCPF_CLOSING: Final = 1 << TCP_CLOSING

MSEC: Final = 1_000_000
SEC: Final = 1_000_000_000

TCP_RTO_MIN: Final = 200 * MSEC
TCP_RTO_MAX: Final = 120 * SEC
TCP_TIMEOUT_INIT: Final = 1 * SEC  # RFC 6298 section 2.1
MDEV_INIT_US: Final = TCP_TIMEOUT_INIT // 1000
TCP_TIMEOUT_FALLBACK: Final = 3 * SEC  # RFC 6298 section 5.7: after a SYN was retransmitted
TCP_TIMEOUT_MIN_US: Final = 2_000
TCP_ATO_MIN: Final = 40 * MSEC
TCP_DELACK_MIN: Final = 40 * MSEC
TCP_DELACK_MAX: Final = 200 * MSEC
TCP_TIMEWAIT_LEN: Final = 60 * SEC
TCP_RESOURCE_PROBE_INTERVAL: Final = 500 * MSEC
TCP_PAWS_MSL: Final = 60  # seconds
TCP_PAWS_WRAP: Final = 0x7FFFFFFF // 1_000_000  # seconds until a clock of µs may have gone half way round
TCP_PAWS_WINDOW: Final = 1  # milliseconds of replay that a time stamp may lie back

MAX_TCP_HEADER: Final = 320
MAX_TCP_KEEPIDLE: Final = 32767
MAX_TCP_KEEPINTVL: Final = 32767
MAX_TCP_KEEPCNT: Final = 127
MAX_TCP_SYNCNT: Final = 127
MAX_TCP_WINDOW: Final = 32767
TCP_MSS_DEFAULT: Final = 536
TCP_MIN_MSS: Final = 88
TCP_MIN_GSO_SIZE: Final = 48 - 40
TCP_BASE_MSS: Final = 1024
TCP_MAX_QUICKACKS: Final = 16
TCP_FASTRETRANS_THRESH: Final = 3
TCP_INIT_CWND: Final = 10
TCP_INFINITE_SSTHRESH: Final = 0x7FFFFFFF
TCP_MAX_WSCALE: Final = 14
TCP_NUM_SACKS: Final = 4
TCP_RACK_RECOVERY_THRESH: Final = 16
TCP_DEFAULT_SCALING_RATIO: Final = 128
TCP_RMEM_TO_WIN_SCALE: Final = 8
TCP_ACK_SND_THRESHOLD: Final = 3

# What Nagle's algorithm is told (`nonagle`).
TCP_NAGLE_OFF: Final = 1
TCP_NAGLE_CORK: Final = 2
TCP_NAGLE_PUSH: Final = 4

# Tags of a segment in the retransmission queue (`skb.sacked`). The essay in recovery.py says what they mean together.
TCPCB_SACKED_ACKED: Final = 0x01
TCPCB_SACKED_RETRANS: Final = 0x02
TCPCB_LOST: Final = 0x04
TCPCB_TAGBITS: Final = 0x07
TCPCB_REPAIRED: Final = 0x10
TCPCB_EVER_RETRANS: Final = 0x80
TCPCB_RETRANS: Final = TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS | TCPCB_REPAIRED

# The congestion state machine (`ca_state`).
TCP_CA_OPEN: Final = 0
TCP_CA_DISORDER: Final = 1
TCP_CA_CWR: Final = 2
TCP_CA_RECOVERY: Final = 3
TCP_CA_LOSS: Final = 4
CA_STATE_NAMES: Final = ("open", "disorder", "cwr", "recovery", "loss")

# What the retransmission timer is armed for (`icsk_pending`).
ICSK_TIME_RETRANS: Final = 1
ICSK_TIME_PROBE0: Final = 3
ICSK_TIME_LOSS_PROBE: Final = 5
ICSK_TIME_REO_TIMEOUT: Final = 6

# The state of delayed acknowledgements (`ack_pending`).
ICSK_ACK_SCHED: Final = 1
ICSK_ACK_TIMER: Final = 2
ICSK_ACK_PUSHED: Final = 4
ICSK_ACK_PUSHED2: Final = 8
ICSK_ACK_NOW: Final = 16
ICSK_ACK_NOMEM: Final = 32

# What an acknowledgement brought.
FLAG_DATA: Final = 0x01
FLAG_WIN_UPDATE: Final = 0x02
FLAG_DATA_ACKED: Final = 0x04
FLAG_RETRANS_DATA_ACKED: Final = 0x08
FLAG_SYN_ACKED: Final = 0x10
FLAG_DATA_SACKED: Final = 0x20
FLAG_ECE: Final = 0x40
FLAG_LOST_RETRANS: Final = 0x80
FLAG_SLOWPATH: Final = 0x100
FLAG_ORIG_SACK_ACKED: Final = 0x200
FLAG_SND_UNA_ADVANCED: Final = 0x400
FLAG_DSACKING_ACK: Final = 0x800
FLAG_SET_XMIT_TIMER: Final = 0x1000
FLAG_SACK_RENEGING: Final = 0x2000
FLAG_UPDATE_TS_RECENT: Final = 0x4000
FLAG_NO_CHALLENGE_ACK: Final = 0x8000
FLAG_ACK_MAYBE_DELAYED: Final = 0x10000
FLAG_DSACK_TLP: Final = 0x20000
FLAG_TS_PROGRESS: Final = 0x40000
FLAG_ACKED: Final = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP: Final = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED
FLAG_CA_ALERT: Final = FLAG_DATA_SACKED | FLAG_ECE | FLAG_DSACKING_ACK
FLAG_FORWARD_PROGRESS: Final = FLAG_ACKED | FLAG_DATA_SACKED

# The urgent byte (`urg_data`): announced but not here, here (with the byte itself), read.
TCP_URG_NOTYET: Final = 0x200
TCP_URG_VALID: Final = 0x100
TCP_URG_READ: Final = 0x400

SEQ_MASK: Final = 0xFFFFFFFF


def before(a: int, b: int) -> bool:
    """Whether sequence number `a` lies before `b`, modulo 2**32."""
    return (a - b) & 0x80000000 != 0


def after(a: int, b: int) -> bool:
    """Whether sequence number `a` lies behind `b`, modulo 2**32."""
    return (b - a) & 0x80000000 != 0


def between(seq: int, low: int, high: int) -> bool:
    """Whether `seq` lies in the range from `low` to `high`, both included."""
    return (high - low) & SEQ_MASK >= (seq - low) & SEQ_MASK
