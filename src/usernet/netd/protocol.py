"""What a client and the service say to each other.

They talk over a Unix socket of type SOCK_SEQPACKET, which keeps the bounds of messages and tells when the other side is
gone. A message is one MessagePack array (msgspec): a number that says which, and its fields. Descriptors go along as
SCM_RIGHTS. Addresses, options and ancillary data are bytes, as the kernel's calls take them.

A client says `Hello` first, and is told `Welcome`. After that each request carries a number of the client's choice,
by which its one answer is known: `Done`, or `Failed` with an errno. Many may be under way, and are answered in whatever
order they are done. What does not follow these rules is told `Rejected`, and the connection is closed.

A request on a socket may bring a duplicate of the socket's descriptor along, which the service has for as long as the
request is under way. It is needed where something is to be done at the application's end: to make it writable once it
is connected, to take a datagram out of it, to take the mark out that says that connections wait. Else it is asked for
by `Reach`.

    client                                          service
      | Hello(version, …)                             |
      | --------------------------------------------> |
      |                                 Welcome(name) |
      | <-------------------------------------------- |
      | Open(1, AF_INET, SOCK_STREAM, 0)              |
      | --------------------------------------------> |
      |           Given(1, handle 1) + its descriptor |
      | <-------------------------------------------- |
      | Commit(handle 1)                              |
      | Connect(2, handle 1, sockaddr)                |
      | Bind(3, …)                                    |
      | --------------------------------------------> |
      |                        Failed(3, EADDRINUSE)  |
      |                        Done(2)                |
      | <-------------------------------------------- |
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

VERSION: Final = 1

MAX_MESSAGE: Final = 1 << 17
"""Bytes of a message. A Unix socket with the host's usual net.core.wmem_default takes that much in one."""

MAX_DATA: Final = MAX_MESSAGE - 16384
"""Bytes of data in a message, so that its other fields have room; more of a stream goes in several."""

MAX_FDS: Final = 4
"""Descriptors that come with a message. Linux's own limit is 253 (SCM_MAX_FD)."""

MAX_WORDS: Final = 1024
"""Words of a command."""

U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
I32 = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Flags = Annotated[int, Meta(ge=-(1 << 31), le=0xFFFFFFFF)]
Length = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
SockAddr = Annotated[bytes, Meta(max_length=256)]
Control = Annotated[bytes, Meta(max_length=4096)]
Data = Annotated[bytes, Meta(max_length=MAX_DATA)]
Value = Annotated[bytes, Meta(max_length=65536)]
Text = Annotated[str, Meta(max_length=4096)]


class Message(Struct, array_like=True, forbid_unknown_fields=True, gc=False, tag_field="tag"):
    """What all messages share: an array, of exactly the fields that its number has."""


# -- from the client


class Hello(Message, tag=1):
    """The first message. version: of this protocol. program: who it is, for those who look at the service's clients."""

    version: U32
    program: Annotated[str, Meta(max_length=256)]


class Request(Message):
    """id: the client's number for it, not that of another under way."""

    id: U32


class Cancel(Message, tag=2):
    """Give a request up. It is answered Failed(ECANCELED), unless it is done already."""

    id: U32


class Open(Request, tag=3):
    """socket(2). Answered by `Given`."""

    family: I32
    type: I32
    protocol: I32


class Commit(Message, tag=4):
    """The descriptor of a `Given` is where it was to go."""

    handle: U32


class GiveBack(Message, tag=5):
    """It went nowhere: the socket is undone, and a connection that was accepted is the next one again."""

    handle: U32


class Renew(Request, tag=6):
    """Another channel for a socket whose own is spent. `Given`; or Done, where it is not."""

    handle: U32


class Bind(Request, tag=7):
    """bind(2)."""

    handle: U32
    name: SockAddr


class Listen(Request, tag=8):
    """listen(2)."""

    handle: U32
    backlog: I32


class Connect(Request, tag=9):
    """connect(2)."""

    handle: U32
    name: SockAddr
    nonblock: bool = False


class Accept(Request, tag=10):
    """accept4(2). Given, with the peer's name."""

    handle: U32
    flags: I32 = 0
    nonblock: bool = False


class SockName(Request, tag=11):
    """getsockname(2). Done: data."""

    handle: U32


class PeerName(Request, tag=12):
    """getpeername(2). Done: data."""

    handle: U32


class Shutdown(Request, tag=13):
    """shutdown(2)."""

    handle: U32
    how: I32


class GetOption(Request, tag=14):
    """getsockopt(2) into `size` bytes, which hold `value`. Done: data."""

    handle: U32
    level: I32
    option: I32
    size: I32
    value: Value | None = None


class SetOption(Request, tag=15):
    """setsockopt(2)."""

    handle: U32
    level: I32
    option: I32
    value: Value


class Send(Request, tag=16):
    """sendmsg(2). size: bytes that are to be sent; behind what `data` has the memory is nowhere (EFAULT). Done:
    number, of bytes that were taken."""

    handle: U32
    data: Data
    size: Length
    flags: Flags
    name: SockAddr | None
    control: Control
    nonblock: bool = False


class Receive(Request, tag=17):
    """recvmsg(2). Done: number, which the call returns, data, name, control and flags. control: bytes for ancillary
    data."""

    handle: U32
    size: Length
    flags: Flags
    control: Length
    nonblock: bool = False


class Unreceive(Message, tag=18):
    """The answer to the last `Receive` reached nobody: the datagram is the next one again."""

    handle: U32


class Ioctl(Request, tag=19):
    """ioctl(2) of a socket; handle 0: of none, for those that ask about interfaces. Done: data, to be written back."""

    handle: U32
    request: U32
    argument: Value


class Ring(Request, tag=24):
    """The memory of a packet socket's ring, to be mapped from its start on, `size` bytes. Done: its descriptor (of
    memfd_create(2), sealed) comes along."""

    handle: U32
    size: Length


class Duplicate(Request, tag=20):
    """The socket that a descriptor is of, which comes along. Given, without another descriptor. So a process goes on
    with a socket that another one has passed to it."""


class Reached(Message, tag=21):
    """The answer to `Reach`, with a duplicate of the descriptor, or with none where nobody has it."""

    handle: U32


class Command(Request, tag=22):
    """A tool on the stack: words as on its command line. Done: the exit status; its output is what the descriptor
    that comes along has (memfd_create(2))."""

    tool: Annotated[str, Meta(max_length=64)]
    words: Annotated[list[Text], Meta(max_length=MAX_WORDS)]


class Watch(Request, tag=23):
    """Packets as they pass: `Chunk`s that make a pcapng file, until the request is cancelled. devices: their names;
    empty for all. snaplen: bytes of each, 0 for all. drops: those too that the stack drops."""

    devices: Annotated[list[Annotated[str, Meta(max_length=16)]], Meta(max_length=64)]
    snaplen: U32 = 0
    drops: bool = True


# -- from the service


class Welcome(Message, tag=64):
    """The service takes this client. stack: its name. sockets, memory: what the client may have. control: whether it
    may change the stack."""

    version: U32
    stack: str
    sockets: int
    memory: int
    control: bool


class Done(Message, tag=65):
    """A request is done. number: a count or a status; the rest is as the request says."""

    id: U32
    number: int = 0
    data: bytes = b""
    name: bytes = b""
    control: bytes = b""
    flags: int = 0


class Given(Message, tag=70):
    """A request is done that gives a socket; the descriptor comes along. To be answered by `Commit` or `GiveBack`,
    but where the socket was there before (`Duplicate`: no descriptor)."""

    id: U32
    handle: int
    inode: int
    family: int
    type: int
    protocol: int
    stream: bool
    name: bytes = b""


class Failed(Message, tag=66):
    """A request failed. errno: as the call gives it. text: for people, where there is more to say."""

    id: U32
    errno: int
    text: str = ""


class Chunk(Message, tag=67):
    """A piece of what `Watch` asked for. lost: packets that were left out, up to here, for the client was too slow."""

    id: U32
    data: bytes
    lost: int = 0


class Reach(Message, tag=68):
    """The service needs a duplicate of a channel's descriptor for a moment: `Reached` brings it."""

    handle: U32
    inode: int


class Closed(Message, tag=71):
    """A socket is no more: the last who had its descriptor has closed it."""

    handle: int


class Rejected(Message, tag=69):
    """This client does not keep to the protocol, or is one too many; the connection is closed."""

    text: str


Requests = (
    Hello | Cancel | Open | Commit | GiveBack | Renew | Bind | Listen | Connect | Accept | SockName | PeerName
    | Shutdown | GetOption | SetOption | Send | Receive | Unreceive | Ioctl | Ring | Duplicate | Reached | Command
    | Watch
)  # fmt: skip
Answers = Welcome | Done | Given | Failed | Chunk | Reach | Closed | Rejected

encode: Final = msgspec.msgpack.Encoder().encode
decode_request: Final = msgspec.msgpack.Decoder(Requests).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answers).decode
DecodeError = msgspec.DecodeError
"""What the decoders raise: ValidationError, for a field that is not what it should be, among it."""
