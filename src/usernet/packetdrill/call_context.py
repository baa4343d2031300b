"""What all system calls of a script share: its descriptors, its sockets, and a call that is ready to be started.

Used by `calls` and its parts `calls_socket`, `calls_data` and `calls_event`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, final

from usernet.packetdrill import values
from usernet.packetdrill.ast import Ellipsis_, SockAddr, SystemCall
from usernet.packetdrill.config import Config
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.exchange import NEW, Connection, Exchange
from usernet.packetdrill.symbols import errno_text, symbol
from usernet.packetdrill.target import Call, SocketAddress
from usernet.packetdrill.values import Arguments, signed32

AF_UNSPEC: Final = 0

# Calls whose result is a new descriptor, or of which packetdrill likewise compares the sign only.
_RETURNS_FD: Final = frozenset({"socket", "accept", "open", "epoll_create", "cap_set"})

Check: TypeAlias = Callable[[Call], None]


def no_check(call: Call) -> None:
    """Nothing but the result to compare."""


@final
class Prepared:
    """A call with its arguments evaluated, to be started on a target.

    `call`: for the target. `expected`: the script's result. `check`: compares what else came of the call, and keeps
    what is learnt; raises Mismatch.
    """

    __slots__ = ("_check", "call", "expected", "spec")

    def __init__(self, spec: SystemCall, call: Call, check: Check) -> None:
        self.spec = spec
        self.call = call
        self.expected = signed32(values.integer(spec.result, f"{spec.name}(), result"))
        self._check = check

    def verdict(self) -> None:
        """Compare the finished call with the script. Raises Mismatch."""
        call, expected = self.call, self.expected
        name = self.spec.name
        failed = f" with errno {errno_text(call.errno)}" if call.result < 0 else ""
        if name in _RETURNS_FD and expected >= 0:
            if call.result < 0:
                raise Mismatch(f"{name}(): expected a result of 0 or more, came {call.result}{failed}")
        elif call.result != expected:
            raise Mismatch(f"{name}(): expected result {expected}, came {call.result}{failed}")
        if self.spec.errno:
            number = symbol(self.spec.errno)
            if call.errno != number:
                raise Mismatch(f"{name}(): expected errno {errno_text(number)}, came {errno_text(call.errno)}")
        self._check(call)


@final
class Context:
    """The descriptors and sockets of one run.

    config, exchange: the run's. start: gives the time at which the script started, ns on the target's clock.
    """

    def __init__(self, config: Config, exchange: Exchange, start: Callable[[], int]) -> None:
        self.config = config
        self.exchange = exchange
        self.start = start
        # A script's descriptor to the target's, the newest last: a script may accept a connection under a descriptor
        # that is still open in it, which then is hidden until the new one is closed.
        self.descriptors: dict[int, list[int]] = {}

    def fd(self, args: Arguments, index: int) -> int:
        """The target's descriptor for an argument. Raises BadEvent for one that is not open."""
        return self.live_fd(args.int32(index), args.what(index))

    def live_fd(self, script_fd: int, what: str) -> int:
        """The target's descriptor for a script's. `what`: where it stands, for messages."""
        live = self.descriptors.get(script_fd)
        if not live:
            raise BadEvent(f"{what}: found descriptor {script_fd}, expected one that is open in the script")
        return live[-1]

    def add_fd(self, script_fd: int, live_fd: int, *, hides: bool = False) -> None:
        """A call has returned a descriptor. Raises BadEvent where the script's is in use, unless it may hide that."""
        row = self.descriptors.setdefault(script_fd, [])
        if row and not hides:
            raise BadEvent(f"found descriptor {script_fd} as a result, expected one that is not open in the script")
        row.append(live_fd)

    def close_fd(self, script_fd: int) -> None:
        """A descriptor was closed."""
        if (connection := self.connection(script_fd)) is not None:
            connection.closed = True
        if row := self.descriptors.get(script_fd):
            row.pop()

    def connection(self, script_fd: int) -> Connection | None:
        """The socket with a script's descriptor; None for a descriptor of another kind."""
        for connection in reversed(self.exchange.connections):
            if connection.script_fd == script_fd and not connection.closed:
                return connection
        return None

    def socket_connection(self, script_fd: int, what: str) -> Connection:
        """The same, of a descriptor that must be a socket's."""
        connection = self.connection(script_fd)
        if connection is None:
            raise BadEvent(f"{what}: found descriptor {script_fd}, expected a socket's")
        return connection

    def new_fd(self, spec: SystemCall, call: Call) -> Prepared:
        """A call that returns a descriptor, and nothing else of interest."""

        def check(call: Call) -> None:
            if call.result >= 0:
                self.add_fd(prepared.expected, call.result)

        prepared = Prepared(spec, call, check)
        return prepared

    def address(self, args: Arguments, index: int, address: bytes, port: int) -> SocketAddress:
        """A sockaddr: `...` for the configured one, a family without an address, or one that is written out."""
        expression = args.expressions[index]
        if isinstance(expression, Ellipsis_):
            return SocketAddress(self.config.socket_domain, self.config.socket_address(address), port)
        if isinstance(expression, SockAddr):
            return SocketAddress(symbol(expression.family), expression.address, expression.port)
        return SocketAddress(args.int32(index))

    def begin_connect(self, args: Arguments, address: SocketAddress) -> None:
        """The socket of the first argument is about to connect, if it is new; AF_UNSPEC makes it new again."""
        connection = self.socket_connection(args.int32(0), args.what(0))
        if address.family == AF_UNSPEC:
            connection.state = NEW
        elif connection.state == NEW:
            self.exchange.connecting(connection)


Handler: TypeAlias = Callable[[Context, SystemCall, Arguments], Prepared]
