"""System calls that wait for events. A part of `calls`."""

from __future__ import annotations

from typing import Final

from usernet.packetdrill import values
from usernet.packetdrill.ast import Array, EpollEvent, PollFd, SystemCall
from usernet.packetdrill.call_context import Context, Handler, Prepared, no_check
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.symbols import EPOLL_FLAGS, POLL_FLAGS, flags_text
from usernet.packetdrill.target import Call
from usernet.packetdrill.target import EpollEvent as LiveEpollEvent
from usernet.packetdrill.target import PollFd as LivePollFd
from usernet.packetdrill.values import Arguments


def _poll(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(3)
    array = args.expressions[0]
    if not isinstance(array, Array):
        raise args.bad(0, "an array of pollfds")
    fds: list[LivePollFd] = []
    expected: list[int] = []
    for item in array.items:
        if not isinstance(item, PollFd):
            raise BadEvent(f"{args.what(0)}: found {values.describe(item)} in it, expected {{fd=…, events=…}}")
        live = context.live_fd(values.integer(item.fd, "fd"), args.what(0))
        fds.append(LivePollFd(live, values.integer(item.events, "events", 0, 0xFFFF)))
        expected.append(values.integer(item.revents, "revents", 0, 0xFFFF))
    if args.int32(1) != len(fds):
        raise BadEvent(f"{args.what(1)}: found {args.int32(1)}, expected {len(fds)}, the number of pollfds")

    def check(call: Call) -> None:
        if call.result < 0:
            return
        for index, (fd, wanted) in enumerate(zip(fds, expected, strict=True)):
            if fd.revents != wanted:
                came = flags_text(fd.revents, POLL_FLAGS)
                raise Mismatch(f"poll(): pollfd {index}: expected {flags_text(wanted, POLL_FLAGS)}, came {came}")

    return Prepared(spec, Call(spec.name, (fds, args.int32(2))), check)


def _epoll_create(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(1)
    return context.new_fd(spec, Call(spec.name, (args.int32(0),)))


def _event(context: Context, args: Arguments, index: int) -> tuple[LiveEpollEvent, EpollEvent]:
    """An epoll_event: its union holds the target's descriptor where a script's is meant."""
    expression = args.expressions[index]
    if not isinstance(expression, EpollEvent):
        raise args.bad(index, "an epoll_event {events=…, fd=…}")
    data = values.integer(expression.data, expression.member, values.S64_MIN, values.U64_MAX)
    if expression.member == "fd":
        data = context.live_fd(data, args.what(index))
    width = 32 if expression.member in ("fd", "u32") else 64
    events = values.integer(expression.events, "events")
    return LiveEpollEvent(events & values.U32_MAX, data & (1 << width) - 1), expression


def _epoll_ctl(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(4)
    event, expression = _event(context, args, 3)
    if expression.member == "fd" and values.integer(expression.data, "fd") != args.int32(2):
        raise BadEvent(f"{args.what(3)}: found another fd than that of argument 3, expected the same")
    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.int32(1), context.fd(args, 2), event)), no_check)


def _epoll_wait(context: Context, spec: SystemCall, args: Arguments) -> Prepared:
    args.count(4)
    expected, expression = _event(context, args, 1)

    def check(call: Call) -> None:
        actual = call.output.events[0] if call.output.events else LiveEpollEvent()
        if actual.events != expected.events:
            wanted, came = flags_text(expected.events, EPOLL_FLAGS), flags_text(actual.events, EPOLL_FLAGS)
            raise Mismatch(f"epoll_wait(): expected events {wanted}, came {came}")
        mask = values.U32_MAX if expression.member in ("fd", "u32") else values.U64_MAX
        if (actual.data ^ expected.data) & mask:
            raise Mismatch(
                f"epoll_wait(): expected data {expected.data} in '{expression.member}', came {actual.data & mask}"
            )

    return Prepared(spec, Call(spec.name, (context.fd(args, 0), args.int32(2), args.int32(3))), check)


HANDLERS: Final[dict[str, Handler]] = {
    "poll": _poll,
    "epoll_create": _epoll_create,
    "epoll_ctl": _epoll_ctl,
    "epoll_wait": _epoll_wait,
}
