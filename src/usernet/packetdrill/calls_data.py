"""System calls that move data. A part of `calls`."""

from __future__ import annotations

from typing import Final

from usernet.packetdrill import control, values
from usernet.packetdrill.ast import MsgHdr, SystemCall
from usernet.packetdrill.call_context import Context, Handler, Prepared, no_check
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.live import IPPROTO_ICMP, IPPROTO_ICMPV6
from usernet.packetdrill.symbols import message_flags_text
from usernet.packetdrill.target import Buffer, Call, Message, SocketAddress
from usernet.packetdrill.values import Arguments

SOCK_DGRAM: Final = 2
ICMP_ECHO: Final = 8
ICMPV6_ECHO_REQUEST: Final = 128
ICMP_HLEN: Final = 8


def _read_write(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.buffer(1, 2))), no_check)


def _readv_writev(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.buffers(1, 2))), no_check)


def _recv_send(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(4)
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.buffer(1, 2), args.int32(3))), no_check)


def _recvfrom(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(6)
    args.ellipsis(4)
    args.ellipsis(5)
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.buffer(1, 2), args.int32(3))), no_check)


def _sendto(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(6)
    fd, buffer, flags = context.fd(args, 0), args.buffer(1, 2), args.int32(3)
    address = context.address(args, 4, context.config.remote_ip, context.config.connect_port)
    args.ellipsis(5)
    context.begin_connect(args, address)
    _fill_icmp(context, args.int32(0), buffer)
    return Prepared(spec, Call(spec.name, (fd, buffer, flags, address)), no_check)


def _fill_icmp(context: Context, script_fd: int, buffer: Buffer) -> None:
    """A ping socket sends nothing but echo requests, whose header the application writes."""
    connection = context.connection(script_fd)
    if connection is None or connection.type != SOCK_DGRAM or buffer.data is None or buffer.length < ICMP_HLEN:
        return
    if connection.protocol == IPPROTO_ICMP:
        buffer.data[0] = ICMP_ECHO
    elif connection.protocol == IPPROTO_ICMPV6:
        buffer.data[0] = ICMPV6_ECHO_REQUEST


def _message(context: Context, args: Arguments) -> tuple[MsgHdr, Message, list[control.Expected]]:
    """The msghdr of an argument: as written, for the target without addresses, and its control messages."""
    header = args.expressions[1]
    if not isinstance(header, MsgHdr):
        raise args.bad(1, "a msghdr {msg_name(...)=..., msg_iov(…)=…, msg_flags=…}")
    if header.iovlen != len(header.iov):
        raise BadEvent(f"{args.what(1)}: found msg_iov({header.iovlen}), expected {len(header.iov)}, as there are")
    what = args.what(1)
    message = Message([Buffer(values.checked_size(iov.length, what)) for iov in header.iov])
    return header, message, [control.Expected(cmsg) for cmsg in header.control]


def _recvmsg(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    fd, flags = context.fd(args, 0), args.int32(2)
    header, message, expected = _message(context, args)
    message.control_length = sum(cmsg.space() for cmsg in expected)
    wanted = values.integer(header.flags, "msg_flags")

    def check(call: Call) -> None:
        if call.result < 0:
            return
        if message.flags != wanted:
            came = message_flags_text(message.flags)
            raise Mismatch(f"recvmsg(): expected msg_flags {message_flags_text(wanted)}, came {came}")
        control.compare(expected, message.control, context.start(), context.config.tolerance)

    return Prepared(spec, Call(spec.name, (fd, message, flags)), check)


def _sendmsg(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    fd, flags = context.fd(args, 0), args.int32(2)
    header, message, control_messages = _message(context, args)
    if values.integer(header.flags, "msg_flags") != 0:
        raise BadEvent("sendmsg(): found msg_flags in the msghdr, expected 0: the call ignores them")
    config = context.config
    message.address = SocketAddress(
        config.socket_domain, config.socket_address(config.remote_ip), config.connect_port
    )
    message.control = [cmsg.message() for cmsg in control_messages]
    context.begin_connect(args, message.address)
    return Prepared(spec, Call(spec.name, (fd, message, flags)), no_check)


def _sendfile(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(4)
    offset = values.integer(args.bracketed(2), args.what(2), values.S64_MIN, values.U64_MAX)
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), context.fd(args, 1), offset, args.size(3))), no_check)


def _splice(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(6)
    source, from_offset = context.fd(args, 0), args.int64(1) or None
    target, to_offset = context.fd(args, 2), args.int64(3) or None
    arguments = (source, from_offset, target, to_offset, args.size(4), args.int32(5))
    return Prepared(spec, Call(spec.name, arguments), no_check)


HANDLERS: Final[dict[str, Handler]] = {
    "read": _read_write,
    "write": _read_write,
    "readv": _readv_writev,
    "writev": _readv_writev,
    "recv": _recv_send,
    "send": _recv_send,
    "recvfrom": _recvfrom,
    "sendto": _sendto,
    "recvmsg": _recvmsg,
    "sendmsg": _sendmsg,
    "sendfile": _sendfile,
    "splice": _splice,
}
