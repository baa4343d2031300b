"""What a script says, as a tree.

Made by `parser`, read by everything after it. Nothing here is evaluated: symbols are still names (`symbols` has their
values), addresses and sequence numbers are the script's own, and a packet is what is written, not bytes.
Times are integer nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

# ---------------------------------------------------------------- times

ABSOLUTE: Final = 0  # 1.5        since the start of the script
RELATIVE: Final = 1  # +1.5       since the event before
ANY_TIME: Final = 2  # *          whenever
ABSOLUTE_RANGE: Final = 3  # 1~2
RELATIVE_RANGE: Final = 4  # +1~+2


@final
@dataclass(slots=True)
class EventTime:
    """When an event is due. `end` is the end of a range, else equal to `start`."""

    kind: int
    start: int = 0
    end: int = 0

    @property
    def relative(self) -> bool:
        """Whether the times count from the event before."""
        return self.kind in (RELATIVE, RELATIVE_RANGE, ANY_TIME)


# ---------------------------------------------------------------- expressions


@final
@dataclass(slots=True)
class Ellipsis_:
    """`...`: a value that the interpreter supplies, or that is not checked."""


@final
@dataclass(slots=True)
class Integer:
    """A number. `hexadecimal`: written with 0x."""

    value: int
    hexadecimal: bool = False


@final
@dataclass(slots=True)
class Symbol:
    """A name such as SOL_SOCKET or NULL."""

    name: str


@final
@dataclass(slots=True)
class String:
    """Text between quotes, its escapes resolved. `open`: `"text"...`, of which only the beginning is known."""

    value: bytes
    open: bool = False


@final
@dataclass(slots=True)
class Or:
    """`left | right`."""

    left: Expression
    right: Expression


@final
@dataclass(slots=True)
class Assignment:
    """`NAME = value`, in lists of attributes."""

    name: str
    value: Expression


@final
@dataclass(slots=True)
class Array:
    """`[a, b]`."""

    items: list[Expression]


@final
@dataclass(slots=True)
class Braces:
    """`{a, b}`, of expressions that have no names of their own."""

    items: list[Expression]


@final
@dataclass(slots=True)
class InAddr:
    """`inet_addr("1.2.3.4")` or `inet6_addr("::1")`: 4 or 16 bytes."""

    address: bytes


@final
@dataclass(slots=True)
class SockAddr:
    """`{sa_family = AF_INET, sin_port = htons(80), sin_addr = inet_addr("1.2.3.4")}`."""

    family: str
    port: int
    address: bytes


@final
@dataclass(slots=True)
class Iovec:
    """`{..., 100}`: a buffer of `length` bytes."""

    length: int


@final
@dataclass(slots=True)
class MsgHdr:
    """`{msg_name(...)=..., msg_iov(1)=[{...,100}], msg_flags=0, msg_control=[...]}`.

    `iovlen`: the number of buffers as written, which may be wrong.
    """

    iovlen: int
    iov: list[Iovec]
    flags: Expression
    control: list[Cmsg]


@final
@dataclass(slots=True)
class Cmsg:
    """`{cmsg_level=..., cmsg_type=..., cmsg_data=...}`."""

    level: Expression
    type: Expression
    data: Expression


@final
@dataclass(slots=True)
class ScmTimestamping:
    """`{scm_sec=0, scm_nsec=20000000}`: a time since the start of the script. Zero is not checked."""

    sec: int
    nsec: int


@final
@dataclass(slots=True)
class ExtendedError:
    """`{ee_errno=..., ee_origin=..., ee_type=..., ee_code=..., ee_info=..., ee_data=...}` (sock_extended_err)."""

    errno: Expression
    origin: Expression
    type: Expression
    code: Expression
    info: Expression
    data: Expression


@final
@dataclass(slots=True)
class PollFd:
    """`{fd=3, events=POLLIN, revents=POLLIN}`; `revents` is 0 where it is not written."""

    fd: Expression
    events: Expression
    revents: Expression


@final
@dataclass(slots=True)
class EpollEvent:
    """`{events=EPOLLIN, fd=4}`. `member`: which of the data is meant, "fd", "ptr", "u32" or "u64"."""

    events: Expression
    member: str
    data: Expression


@final
@dataclass(slots=True)
class Linger:
    """`{onoff=1, linger=0}`."""

    onoff: int
    linger: int


@final
@dataclass(slots=True)
class Gre:
    """`{flags [key present], sum 0, off 0, key 1, seq 0}`, and the GRE header of a packet (RFC 1701, 2890)."""

    flags: int = 0
    sum: int = 0
    off: int = 0
    key: int = 0
    seq: int = 0


@final
@dataclass(slots=True)
class MplsEntry:
    """One entry of a label stack (RFC 3032)."""

    label: int
    tc: int
    bottom: bool
    ttl: int


@final
@dataclass(slots=True)
class MplsStack:
    """`{(label 1, tc 0, [S], ttl 64)}`, and the label stack of a packet."""

    entries: list[MplsEntry]


Expression: TypeAlias = (
    Ellipsis_
    | Integer
    | Symbol
    | String
    | Or
    | Assignment
    | Array
    | Braces
    | InAddr
    | SockAddr
    | Iovec
    | MsgHdr
    | Cmsg
    | ScmTimestamping
    | ExtendedError
    | PollFd
    | EpollEvent
    | Linger
    | Gre
    | MplsStack
)

# ---------------------------------------------------------------- packets

INBOUND: Final = "<"
OUTBOUND: Final = ">"

TOS_ANY: Final = 0  # not written: not checked, sent as 0
TOS_ECN: Final = 1  # the two ECN bits are as given
TOS_ECT01: Final = 2  # ECT(0) or ECT(1)
TOS_BYTE: Final = 3  # the whole byte is as given

ECN_NONE: Final = 0
ECN_ECT1: Final = 1
ECN_ECT0: Final = 2
ECN_CE: Final = 3


@final
@dataclass(slots=True)
class IpInfo:
    """`[ect0]`, `[tos 0x10, flowlabel 0x1]`, `(ttl 1)`: what is asked of the IP header.

    `ttl` and `flow_label`: 0 asks for nothing.
    """

    check: int = TOS_ANY
    tos: int = 0
    flow_label: int = 0
    ttl: int = 0


@final
@dataclass(slots=True)
class IpEncap:
    """`ipv4 1.1.1.1 > 2.2.2.2:` or `ipv6 a::1 > a::2:` in front of a packet. `source`, `destination`: packed."""

    version: int
    source: bytes
    destination: bytes
    info: IpInfo


Encapsulation: TypeAlias = IpEncap | Gre | MplsStack


@final
@dataclass(slots=True)
class TcpOption:
    """One option: its kind, and its data without kind and length bytes (RFC 9293 section 3.2)."""

    kind: int
    data: bytes = b""


@final
@dataclass(slots=True)
class Tcp:
    """`80 > 9000 P. 1:11(10) ack 1 win 100 urg 0 <nop,nop,TS val 1 ecr 2>`.

    `flags`: nine bits, FIN to AE. `ace`: the AccECN counter was written as a digit 1 to 7, and the flags' upper three
    bits are it. `window` None: not checked. `options` None: `<...>`, not checked. Ports 0: the connection's.
    """

    flags: int
    seq: int
    length: int
    ack: int = 0
    window: int | None = None
    urg: int = 0
    options: list[TcpOption] | None = field(default_factory=list)
    ace: bool = False
    source_port: int = 0
    destination_port: int = 0


@final
@dataclass(slots=True)
class Udp:
    """`udp (100)`."""

    length: int
    source_port: int = 0
    destination_port: int = 0


ECHOED_TCP: Final = "tcp"
ECHOED_UDP: Final = "udp"
ECHOED_RAW: Final = "raw"


@final
@dataclass(slots=True)
class Icmp:
    """`icmp unreachable frag_needed mtu 800 [0:10(10)]`.

    `type` and `code` as written, `code` empty for none; `mtu` None for none. `echoed`: the protocol of the packet that
    the message quotes, with its sequence number `seq` and payload `length`; ECHOED_RAW quotes none and has `length`
    bytes of message in all.
    """

    type: str
    code: str = ""
    mtu: int | None = None
    echo_id: int = 0
    echoed: str = ECHOED_TCP
    seq: int = 0
    length: int = 0


@final
@dataclass(slots=True)
class Packet:
    """A packet into the stack (`<`) or out of it (`>`)."""

    direction: str
    body: Tcp | Udp | Icmp
    info: IpInfo = field(default_factory=IpInfo)
    encapsulations: list[Encapsulation] = field(default_factory=list)


# ---------------------------------------------------------------- the script


@final
@dataclass(slots=True)
class SystemCall:
    """`accept(3, ..., ...) = 4` or `write(4, ..., 10) = -1 EPIPE (Broken pipe)`.

    `end`: for a call that blocks, when it returns, counted as the event's time is; None for one that doesn't.
    `errno`: a symbol, empty where none is written and so none checked.
    """

    name: str
    arguments: list[Expression]
    result: Expression
    errno: str = ""
    note: str = ""
    end: int | None = None


@final
@dataclass(slots=True)
class Command:
    """What stands between backquotes: lines for a shell."""

    text: str
    line: int = 0


@final
@dataclass(slots=True)
class Code:
    """What stands in `%{ }%`: Python."""

    text: str


Action: TypeAlias = Packet | SystemCall | Command | Code


@final
@dataclass(slots=True)
class Event:
    """One event and when it is due; `line` and `column` are its time's."""

    line: int
    column: int
    time: EventTime
    action: Action


@final
@dataclass(slots=True)
class Option:
    """`--name=value`, `value` None without '='."""

    name: str
    value: str | None
    line: int = 0
    column: int = 0


@final
@dataclass(slots=True)
class Script:
    """A whole script. `init` and `cleanup`: shell commands before the first event and after the last."""

    path: str
    text: str
    options: list[Option]
    init: Command | None
    events: list[Event]
    cleanup: Command | None
