"""What few TCP sockets need, in objects beside `TcpState`: listening, Fast Open, parameters seldom set, time-outs.

A socket that has nothing of it refers to a default that all share, so that reading needs no look whether it is there,
and an idle connection pays a reference for each. A default is never written to: `TcpState.own_…` gives the socket one
of its own first. Parameters are replaced as a whole, and so are shared by a listener and all its connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from usernet.transport.tcp.const import TCP_DELACK_MAX

if TYPE_CHECKING:
    from collections import deque

    from usernet.transport.tcp.fastopen import FastopenRequest
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock


@final
class TcpParams:
    """What setsockopt sets and few programs do (tcp(7)). Times in ns; 0: the namespace's default.

    linger2: how long FIN-WAIT-2 lasts for a socket nobody holds, -1 for not at all. ca_setsockopt: TCP_CONGESTION was
    set. inq_wanted: TCP_INQ. thin_lto: TCP_THIN_LINEAR_TIMEOUTS.
    """

    __slots__ = (
        "ca_setsockopt", "delack_max", "inq_wanted", "keepcnt", "keepidle", "keepintvl", "linger2", "syn_retries",
        "thin_lto", "user_mss", "user_timeout",
    )  # fmt: skip

    def __init__(self) -> None:
        self.user_mss: int = 0
        self.user_timeout: int = 0
        self.syn_retries: int = 0
        self.keepidle: int = 0
        self.keepintvl: int = 0
        self.keepcnt: int = 0
        self.linger2: int = 0
        self.thin_lto: bool = False
        self.inq_wanted: bool = False
        self.delack_max: int = TCP_DELACK_MAX
        self.ca_setsockopt: bool = False

    def copy(self) -> TcpParams:
        """Another with the same values, to be changed before any socket has it."""
        new = TcpParams()
        new.user_mss = self.user_mss
        new.user_timeout = self.user_timeout
        new.syn_retries = self.syn_retries
        new.keepidle = self.keepidle
        new.keepintvl = self.keepintvl
        new.keepcnt = self.keepcnt
        new.linger2 = self.linger2
        new.thin_lto = self.thin_lto
        new.inq_wanted = self.inq_wanted
        new.delack_max = self.delack_max
        new.ca_setsockopt = self.ca_setsockopt
        return new


@final
class RequestSockQueue:
    """A listener's handshakes and its connections that wait for accept() (Linux: `struct request_sock_queue`).

    backlog: how many may wait. accept_queue: those that do; None for a socket that doesn't listen. syn_queue:
    handshakes under way; young: those of them whose SYN+ACK was sent only once. synq_overflow: when there were too many
    of them last (ns), -1 for never. defer_accept: SYN+ACKs sent again before a client without data is let in.
    save_syn: TCP_SAVE_SYN. fastopen_*: of Fast Open the keys (none: the namespace's), how many requests with data may
    wait, how many do, and until when (ns) those count that were reset.
    """

    __slots__ = (
        "accept_queue", "backlog", "defer_accept", "fastopen_keys", "fastopen_max_qlen", "fastopen_qlen",
        "fastopen_resets", "save_syn", "syn_queue", "synq_overflow", "young",
    )  # fmt: skip

    def __init__(self) -> None:
        self.backlog: int = 0
        self.accept_queue: deque[TcpSock] | None = None
        self.syn_queue: int = 0
        self.young: int = 0
        self.synq_overflow: int = -1
        self.defer_accept: int = 0
        self.save_syn: int = 0
        self.fastopen_keys: Sequence[bytes] = ()
        self.fastopen_max_qlen: int = 0
        self.fastopen_qlen: int = 0
        self.fastopen_resets: deque[int] | None = None


@final
class FastopenState:
    """Fast Open on one socket, as a client, or as a connection whose handshake isn't done (fastopen.py).

    fastopen_connect, fastopen_no_cookie: the options. fastopen_req: what a client has under way; defer_connect: it
    waits for the first data. fastopen_rsk: the request that a server's connection came from. fastopen_client_fail:
    TFO_*, why it failed. syn_*: as in Linux's `struct tcp_sock`.
    """

    __slots__ = (
        "defer_connect", "fastopen_client_fail", "fastopen_connect", "fastopen_no_cookie", "fastopen_req",
        "fastopen_rsk", "syn_data", "syn_data_acked", "syn_fastopen", "syn_fastopen_ch", "syn_fastopen_child",
        "syn_fastopen_exp",
    )  # fmt: skip

    def __init__(self) -> None:
        self.fastopen_connect: bool = False
        self.fastopen_no_cookie: bool = False
        self.fastopen_rsk: RequestSock | None = None
        self.reset()

    def reset(self) -> None:
        """The connection is over; the options stay."""
        self.fastopen_req: FastopenRequest | None = None
        self.fastopen_client_fail: int = 0
        self.defer_connect: bool = False
        self.syn_data: bool = False
        self.syn_data_acked: bool = False
        self.syn_fastopen: bool = False
        self.syn_fastopen_exp: bool = False
        self.syn_fastopen_ch: bool = False
        self.syn_fastopen_child: bool = False


@final
class RtoStats:
    """Time-outs of one connection, and recoveries from them. total_rto_time: ms from a first time-out to the end of the
    recovery from it, altogether. rto_stamp: when the one under way began (ns), 0 for none."""

    __slots__ = ("rto_stamp", "total_rto", "total_rto_recoveries", "total_rto_time")

    def __init__(self) -> None:
        self.total_rto: int = 0
        self.total_rto_recoveries: int = 0
        self.total_rto_time: int = 0
        self.rto_stamp: int = 0


@final
class RackReordering:
    """How much reordering RACK has patience with (RFC 8985 section 6.2 step 4; Linux: `tcp_sock.rack`).

    steps: the window, in quarters of the smallest round trip; persist: for how many recoveries it stays. dsack_seen,
    last_delivered: whether it is to be widened, and at which count of deliveries it was last.
    """

    __slots__ = ("dsack_seen", "last_delivered", "persist", "steps")

    def __init__(self) -> None:
        self.steps: int = 1
        self.persist: int = 0
        self.dsack_seen: bool = False
        self.last_delivered: int = 0


DEFAULT_PARAMS: Final = TcpParams()
NOT_LISTENING: Final = RequestSockQueue()
NO_FASTOPEN: Final = FastopenState()
NO_TIMEOUTS: Final = RtoStats()
NO_REORDERING: Final = RackReordering()
