"""What a script is run against: the interpreter's only door to a stack.

`runner` above it knows scripts and no stack; an implementation below it knows a stack and no scripts. All addresses
are packed, all packets are IP packets without a link header, all times are ns on the target's own clock, which is the
clock of software time stamps (SCM_TIMESTAMPING) too.

A `Target` is a fresh network namespace with one device `tun0`: it is up, checksums and segments TCP in "hardware"
(tx-checksum, TSO, as a TUN device with a virtio-net header does), has the local address, and the remote address is
routed to it through the gateway.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias, final

from usernet.packetdrill.config import Config
from usernet.packetdrill.shell import Shell


@final
class Buffer:
    """Memory of an application: `length` bytes at an address, or at NULL.

    `data`: the bytes; None for the NULL pointer, of which every access is EFAULT. A call that receives fills `data`
    from the front and does not change its length.
    """

    __slots__ = ("data", "length")

    def __init__(self, length: int, *, null: bool = False) -> None:
        self.length = length
        self.data: bytearray | None = None if null else bytearray(length)


@final
class SocketAddress:
    """`struct sockaddr_in` or `sockaddr_in6`, or one that has nothing but its family (AF_UNSPEC)."""

    __slots__ = ("address", "family", "port")

    def __init__(self, family: int, address: bytes = b"", port: int = 0) -> None:
        self.family = family
        self.address = address
        self.port = port

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SocketAddress)
            and (self.family, self.address, self.port) == (other.family, other.address, other.port)
        )

    def __repr__(self) -> str:
        return f"SocketAddress({self.family}, {self.address.hex()}, {self.port})"

    __hash__ = None  # type: ignore[assignment]


@final
class ControlMessage:
    """One control message (`struct cmsghdr`): level, type and its data as bytes, in host order and without padding."""

    __slots__ = ("data", "level", "type")

    def __init__(self, level: int, type: int, data: bytes) -> None:
        self.level = level
        self.type = type
        self.data = data


@final
class Message:
    """`struct msghdr`.

    For sending, `address`, `buffers` and `control` are given. For receiving, `buffers` are given and the call sets
    `address`, `control` and `flags`; `control_length` is the room for control messages, headers and padding included.
    """

    __slots__ = ("address", "buffers", "control", "control_length", "flags")

    def __init__(self, buffers: list[Buffer], address: SocketAddress | None = None, control_length: int = 0) -> None:
        self.buffers = buffers
        self.address = address
        self.control: list[ControlMessage] = []
        self.control_length = control_length
        self.flags = 0


@final
class PollFd:
    """`struct pollfd`; the call sets `revents`."""

    __slots__ = ("events", "fd", "revents")

    def __init__(self, fd: int, events: int) -> None:
        self.fd = fd
        self.events = events
        self.revents = 0


@final
class EpollEvent:
    """`struct epoll_event`; `data` is the whole union as one 64-bit number."""

    __slots__ = ("data", "events")

    def __init__(self, events: int = 0, data: int = 0) -> None:
        self.events = events
        self.data = data


@final
class Output:
    """What a call gives back besides its result: the bytes of an option or an ioctl, descriptors of a pipe, events."""

    __slots__ = ("address", "data", "events", "fds")

    def __init__(self) -> None:
        self.data = b""
        self.fds: list[int] = []
        self.events: list[EpollEvent] = []
        self.address: SocketAddress | None = None


Argument: TypeAlias = (
    int | bytes | str | Buffer | list[Buffer] | SocketAddress | Message | list[PollFd] | EpollEvent | None
)


@final
class Call:
    """A system call under way, or finished.

    `name` and `arguments`: see `Target.call`. `result` and `errno` hold once `finished` is set (ns, the target's
    clock): the result is -1 and `errno` positive where the call failed.
    """

    __slots__ = ("arguments", "errno", "finished", "name", "output", "result")

    def __init__(self, name: str, arguments: Sequence[Argument]) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.output = Output()
        self.result = 0
        self.errno = 0
        self.finished: int | None = None

    def finish(self, now: int, result: int, errno: int = 0) -> None:
        """Set the outcome. `now`: ns. For the target to call, once."""
        self.result = result
        self.errno = errno
        self.finished = now


@final
class Frame:
    """A packet that the stack sent: an IP packet as the device got it, so before any segmenting, and when (ns).

    `checksummed`: its transport checksum is in place; False where that was left to the device.
    """

    __slots__ = ("checksummed", "data", "time")

    def __init__(self, time: int, data: bytes, checksummed: bool = False) -> None:
        self.time = time
        self.data = data
        self.checksummed = checksummed


class Target(ABC):
    """A stack on virtual time, behind one device. One target runs one script."""

    @abstractmethod
    def start(self, config: Config) -> None:
        """Make the namespace: the device with `config.mtu`, the local address, the route to the remote one.

        Called once, before everything else. Raises whatever keeps the stack from being made.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back all there is, sockets that are still open and calls that still wait included. May be repeated."""

    @abstractmethod
    def now(self) -> int:
        """The clock, ns."""

    @abstractmethod
    def step(self, limit: int) -> bool:
        """Go to the next instant at which the stack has something to do, and do all that is due at that instant.

        What is due already is done without moving the clock. Calls that wait may finish and frames may be sent.

        Args:
            limit: ns, not before now; the clock never passes it.

        Returns:
            Whether there was something to do; else the clock is at `limit` now.
        """

    @abstractmethod
    def call(self, call: Call) -> None:
        """Start a system call, with Linux's checks in Linux's order; one that need not wait has finished on return.

        The names and what their arguments are (all descriptors are the target's own):

            socket(domain, type, protocol)              open(path: str, flags)
            bind(fd, SocketAddress)                     pipe()                      -> output.fds
            listen(fd, backlog)                         epoll_create(size)
            accept(fd)                -> output.address epoll_ctl(epfd, op, fd, EpollEvent)
            connect(fd, SocketAddress)                  epoll_wait(epfd, maxevents, timeout ms) -> output.events
            read(fd, Buffer)  write(fd, Buffer)         poll(list[PollFd], timeout ms)
            readv(fd, list[Buffer])  writev(fd, …)      close(fd)  shutdown(fd, how)
            recv(fd, Buffer, flags)  send(fd, …)        fcntl(fd, command, argument or None)
            recvfrom(fd, Buffer, flags)                 ioctl(fd, command)          -> output.data, an int's bytes
            sendto(fd, Buffer, flags, SocketAddress)    getsockopt(fd, level, optname, optlen)   -> output.data
            recvmsg(fd, Message, flags)  sendmsg(fd, …) setsockopt(fd, level, optname, bytes, optlen)
            sendfile(out, in, offset, count)            splice(in, offset or None, out, offset or None, length, flags)
            cap_set(flag, capability, value)

        `setsockopt`'s bytes can be shorter than its optlen, as in C; the rest reads as zero.
        """

    @abstractmethod
    def cancel(self, call: Call) -> None:
        """Give up a call that has not finished, as a signal does: it finishes with -1 and EINTR."""

    @abstractmethod
    def inject(self, packet: bytes, gso_size: int) -> None:
        """Receive a packet on the device, now.

        Args:
            packet: an IP packet with all checksums in place.
            gso_size: bytes of payload of each packet it was merged from (virtio-net's gso_size); 0 where it was not.
        """

    @abstractmethod
    def collect(self) -> list[Frame]:
        """The frames sent since the last call, in order."""

    @abstractmethod
    def shell(self) -> Shell:
        """Where the actions of shell lines go (sysctls, routes, qdiscs, …)."""
