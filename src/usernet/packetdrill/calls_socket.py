"""System calls that make, name, set and end descriptors. A part of `calls`."""

from __future__ import annotations

from typing import Final

from usernet.packetdrill import values
from usernet.packetdrill.ast import Array, Ellipsis_, Gre, InAddr, Linger, MplsStack, String, SystemCall
from usernet.packetdrill.call_context import Context, Handler, Prepared, no_check
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.exchange import NEW, PASSIVE_LISTENING
from usernet.packetdrill.target import Call
from usernet.packetdrill.values import Arguments, signed32

SOCK_TYPE_MASK: Final = 0xF


def _socket(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    domain = context.config.socket_domain if args.is_ellipsis(0) else args.int32(0)
    kind, protocol = args.int32(1), args.int32(2)

    def check(call: Call) -> None:
        if call.result >= 0:
            context.add_fd(prepared.expected, call.result)
            connection = context.exchange.new_connection()
            connection.state = NEW
            connection.domain = domain
            connection.type = kind & SOCK_TYPE_MASK
            connection.protocol = protocol
            connection.script_fd = prepared.expected
            connection.live_fd = call.result

    prepared = Prepared(spec, Call(spec.name, (domain, kind, protocol)), check)
    return prepared


def _bind(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    fd = context.fd(args, 0)
    address = context.address(args, 1, context.config.local_ip, context.config.bind_port)
    args.ellipsis(2)
    return Prepared(spec, Call(spec.name, (fd, address)), no_check)


def _listen(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(2)
    fd, backlog = context.fd(args, 0), args.int32(1)

    def check(call: Call) -> None:
        context.socket_connection(args.int32(0), args.what(0)).state = PASSIVE_LISTENING

    return Prepared(spec, Call(spec.name, (fd, backlog)), check)


def _accept(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    fd = context.fd(args, 0)
    args.ellipsis(1)
    args.ellipsis(2)

    def check(call: Call) -> None:
        if call.result < 0:
            return
        context.add_fd(prepared.expected, call.result, hides=True)
        peer = call.output.address
        if peer is None:
            raise Mismatch("accept(): expected the peer's address, came none")
        context.exchange.accepted(prepared.expected, call.result, peer.address, peer.port)

    prepared = Prepared(spec, Call(spec.name, (fd,)), check)
    return prepared


def _connect(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    fd = context.fd(args, 0)
    address = context.address(args, 1, context.config.remote_ip, context.config.connect_port)
    args.ellipsis(2)
    context.begin_connect(args, address)
    return Prepared(spec, Call(spec.name, (fd, address)), no_check)


def _close(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(1)
    fd = context.fd(args, 0)

    def check(call: Call) -> None:
        context.close_fd(args.int32(0))

    return Prepared(spec, Call(spec.name, (fd,)), check)


def _shutdown(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(2)
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.int32(1))), no_check)


def _open(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(2)
    path = args.string(0).decode(errors="surrogateescape")
    return context.new_fd(spec, Call(spec.name, (path, args.int32(1))))


def _pipe(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(1)
    ends = args.expressions[0]
    if not isinstance(ends, Array) or len(ends.items) != 2:
        raise args.bad(0, "two descriptors in brackets")
    script_fds = [values.integer(item, args.what(0)) for item in ends.items]

    def check(call: Call) -> None:
        if call.result >= 0:
            for script_fd, live_fd in zip(script_fds, call.output.fds, strict=True):
                context.add_fd(script_fd, live_fd)

    return Prepared(spec, Call(spec.name, ()), check)


def _fcntl(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    argument = args.int32(2) if args.count(2, 3) == 3 else None
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.int32(1), argument)), no_check)


def _ioctl(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    count = args.count(2, 3)
    expected = values.integer(args.bracketed(2), args.what(2)) if count == 3 else None

    def check(call: Call) -> None:
        if expected is None or call.result < 0:
            return
        actual = int.from_bytes(call.output.data[:4], "little", signed=True)
        if actual != signed32(expected):
            raise Mismatch(f"ioctl(): expected the value {signed32(expected)}, came {actual}")

    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.int32(1))), check)


def _cap_set(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    return Prepared(spec, Call(spec.name, (args.int32(0), args.int32(1), args.int32(2))), no_check)


def _getsockopt(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(5)
    optlen = values.integer(args.bracketed(4), args.what(4), 0, values.MAX_BUFFER)
    expected = _option_bytes(args, 3, optlen)
    text = isinstance(args.expressions[3], String)

    def check(call: Call) -> None:
        if call.result < 0 or expected is None:
            return
        actual = call.output.data
        if len(actual) != optlen:
            raise Mismatch(f"getsockopt(): expected optlen {optlen}, came {len(actual)}")
        if actual != expected:
            came = _option_text(actual, text)
            raise Mismatch(f"getsockopt(): expected {_option_text(expected, text)}, came {came}")

    arguments = (context.fd(args, 0), args.int32(1), args.int32(2), optlen)
    return Prepared(spec, Call(spec.name, arguments), check)


def _setsockopt(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(5)
    optlen = args.int32(4)
    data = _option_bytes(args, 3, None)
    if data is None:
        raise args.bad(3, "an option's value")
    arguments = (context.fd(args, 0), args.int32(1), args.int32(2), data, optlen)
    return Prepared(spec, Call(spec.name, arguments), no_check)


def _option_bytes(args: Arguments, index: int, optlen: int | None) -> bytes | None:
    """An option's value as memory. `optlen`: what its length must be, None for any. None for `...`."""
    expression = args.expressions[index]
    if isinstance(expression, Ellipsis_):
        return None
    data: bytes
    if isinstance(expression, String):
        data = expression.value
        if optlen is not None and expression.open:
            data = data.ljust(optlen, b"\0")
    elif isinstance(expression, InAddr):
        data = expression.address
    elif isinstance(expression, Linger):
        data = values.linger_bytes(expression)
    elif isinstance(expression, Gre):
        data = values.gre_bytes(expression)
    elif isinstance(expression, MplsStack):
        data = values.mpls_bytes(expression)
    elif isinstance(expression, Array):
        data = values.int_bytes(values.integer(args.bracketed(index), args.what(index)))
    else:
        raise args.bad(index, "[VALUE], a string or a structure")
    if optlen is not None and len(data) != optlen:
        raise BadEvent(f"{args.what(index)}: found a value of {len(data)} bytes, expected {optlen}, its length")
    return data


def _option_text(data: bytes, text: bool) -> str:
    """An option's value for a message."""
    if text:
        return repr(data)
    return str(int.from_bytes(data, "little", signed=True)) if len(data) == 4 else data.hex()


HANDLERS: Final[dict[str, Handler]] = {
    "socket": _socket,
    "bind": _bind,
    "listen": _listen,
    "accept": _accept,
    "connect": _connect,
    "close": _close,
    "shutdown": _shutdown,
    "open": _open,
    "pipe": _pipe,
    "fcntl": _fcntl,
    "ioctl": _ioctl,
    "cap_set": _cap_set,
    "getsockopt": _getsockopt,
    "setsockopt": _setsockopt,
}
