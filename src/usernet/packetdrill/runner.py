"""Runs a script against a target, event by event, on virtual time.

    parse → configure → Runner.run: for each event   wait until it is due, then
        packet in    exchange.inbound → target.inject
        packet out   target.step until one comes → exchange → match
        call         calls.prepare → target.call → verdict (a blocking one: later, when it has finished)
        shell        sh_commands → target.shell()
        code         getsockopt → codeblock

Everything happens at exact times: the clock only moves where a script waits, or a call does. What packetdrill does with
a second thread and real sleeps is here one loop around `Target.step`. A run ends: waiting has a limit on virtual time,
and the whole script one on steps.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final, final

from usernet.packetdrill import calls, match, timing
from usernet.packetdrill.ast import (
    ANY_TIME,
    INBOUND,
    RELATIVE,
    Code,
    Command,
    Event,
    EventTime,
    Packet,
    Script,
    SystemCall,
    Tcp,
)
from usernet.packetdrill.call_context import Context, Prepared
from usernet.packetdrill.codeblock import CodeBlocks
from usernet.packetdrill.config import Config
from usernet.packetdrill.errors import BadEvent, Mismatch, ScriptError, ScriptFailure
from usernet.packetdrill.exchange import Connection, Exchange
from usernet.packetdrill.lexer import source_line
from usernet.packetdrill.live import Live, dissect
from usernet.packetdrill.pretty import live_text, packet_text
from usernet.packetdrill.sh_commands import Commands
from usernet.packetdrill.symbols import SYMBOLS, errno_text
from usernet.packetdrill.target import Call, Frame, Target
from usernet.packetdrill.tcpinfo import (
    SO_MEMINFO,
    SO_MEMINFO_LENGTH,
    TCP_CC_INFO,
    TCP_CC_INFO_LENGTH,
    TCP_INFO,
    TCP_INFO_LENGTH,
    so_meminfo,
    tcp_cc_info,
    tcp_info,
)
from usernet.packetdrill.timing import Due, seconds

NSEC_PER_SEC: Final = 1_000_000_000
IDLE_WAIT: Final = NSEC_PER_SEC  # how long a call waits for the blocking one before it (packetdrill: MAX_WAIT_SECS)
PACKET_WAIT: Final = 2 * NSEC_PER_SEC  # how long after its time an outbound packet is waited for
ENDLESS_WAIT: Final = 3600 * NSEC_PER_SEC  # how long for `*`, and for a call that waits though the script says it won't
MAX_TIME: Final = 7 * 24 * 3600 * NSEC_PER_SEC  # of a script, on the stack's clock
MAX_STEPS: Final = 5_000_000  # of the stack, for one script

_SOL_TCP: Final = SYMBOLS["SOL_TCP"]
_SOL_SOCKET: Final = SYMBOLS["SOL_SOCKET"]


@final
class _Pending:
    """A blocking call under way: its event, when it is due to return, and what it will be held to."""

    __slots__ = ("due", "event", "prepared", "started")

    def __init__(self, event: Event, prepared: Prepared, started: int, due: Due) -> None:
        self.event = event
        self.prepared = prepared
        self.started = started
        self.due = due


@final
class Runner:
    """One run of one script.

    script, config: from `parser` and `config`. target: fresh. `log`: what went by, one line an event or packet, for
    `usernet packetdrill -v`. `warnings`: mismatches that --non_fatal lets pass.
    """

    def __init__(self, script: Script, config: Config, target: Target) -> None:
        self.script = script
        self.config = config
        self.target = target
        self.log: list[str] = []
        self.warnings: list[str] = []
        self.exchange = Exchange(config)
        self.context = Context(config, self.exchange, self._start_time)
        self.code = CodeBlocks(script.path)
        self._commands: Commands | None = None
        self._shell_messages = ""
        self._frames: deque[Frame] = deque()
        self._pending: _Pending | None = None
        self._start = 0  # ns on the target's clock
        self._steps = 0
        self._event: Event | None = None
        self._due = Due(EventTime(ANY_TIME), 0)
        self._last_time: int | None = None  # when the event before was due, in the script's time
        self._last_was_inbound = False

    def run(self) -> None:
        """Run the script.

        Raises:
            ScriptFailure: the stack did something else than the script says.
            ScriptError: the script can't be carried out: an unknown symbol, a descriptor that is not open.
        """
        script = self.script
        try:
            self.target.start(self.config)
            directory = os.path.dirname(os.path.abspath(script.path))
            self._commands = Commands(self.target.shell(), directory)
            for name in self.config.init_scripts.replace(",", " ").split():
                self._shell(Command(name))
            if script.init is not None:
                self._shell(script.init)
            self._start = self.target.now()
            try:
                for event in script.events:
                    self._event = event
                    self._run_event(event)
                self._finish()
            finally:
                if script.cleanup is not None:
                    self._cleanup(script.cleanup)
        except Mismatch as mismatch:
            raise self._failure(str(mismatch)) from None
        except BadEvent as bad:
            line, column = self._place()
            raise ScriptError(script.path, line, column, str(bad), source_line(script.text, line)) from None
        finally:
            self.target.close()

    def _place(self) -> tuple[int, int]:
        """Line and column of what runs now: an event, or the shell lines before the first."""
        if self._event is not None:
            return self._event.line, self._event.column
        return (self.script.init.line if self.script.init is not None else 1), 1

    def _failure(self, message: str, event: Event | None = None) -> ScriptFailure:
        line = event.line if event is not None else self._place()[0]
        if self._shell_messages:
            message += "\nshell lines said:\n" + "\n".join(f"  {each}" for each in self._shell_messages.splitlines())
        return ScriptFailure(self.script.path, line, message)

    # ------------------------------------------------------------ time

    def _start_time(self) -> int:
        return self._start

    def _now(self) -> int:
        """The script's time, ns."""
        return self.target.now() - self._start

    def _step(self, limit: int) -> bool:
        """One step of the target, up to `limit` in the script's time; sees to what came of it."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise Mismatch(f"the stack was still busy after {MAX_STEPS} steps, at {seconds(self._now())} s")
        busy = self.target.step(self._start + limit)
        self._frames.extend(self.target.collect())
        self._check_pending()
        return busy

    def _advance(self, until: int) -> None:
        """Let the script's time come to `until`; what is due now is done in any case."""
        limit = max(until, self._now())
        if limit > MAX_TIME:
            raise Mismatch(f"expected the script to end by {seconds(MAX_TIME)} s, but it goes on to {seconds(limit)} s")
        while self._step(limit):
            pass

    def _schedule(self, event: Event) -> None:
        """Work out when an event is due. Relative times count from now, or for packets in a row from the one before."""
        inbound = isinstance(event.action, Packet) and event.action.direction == INBOUND
        anchored = inbound and self._last_was_inbound and self._last_time is not None
        offset = self._last_time if anchored and self._last_time is not None else self._now()
        self._due = Due(event.time, offset)
        self._last_was_inbound = inbound

    def _tolerance(self) -> int:
        since = self._due.start - self._last_time if self._last_time is not None else 0
        return timing.tolerance(self.config.tolerance, self.config.tolerance_percent, since)

    def _wait(self, what: str) -> None:
        """Wait until the event is due. Raises Mismatch where its time is over already."""
        self._advance(self._due.start)
        if self._last_time is not None:
            timing.check(self._due, self._now(), self._tolerance(), what)

    # ------------------------------------------------------------ events

    def _run_event(self, event: Event) -> None:
        action = event.action
        self._schedule(event)
        if isinstance(action, Packet):
            if action.direction == INBOUND:
                self._inject(action)
            else:
                self._expect(action)
        elif isinstance(action, SystemCall):
            self._call(event, action)
        elif isinstance(action, Command):
            self._wait("shell command")
            self._shell(action)
        else:
            self._wait("code block")
            self._run_code(event, action)
        self._last_time = self._due.start

    def _note(self, text: str) -> None:
        self.log.append(f"{seconds(self._now())} {text}")

    def _inject(self, packet: Packet) -> None:
        self._wait("inbound packet")
        data = self.exchange.inbound(packet)
        self._note(packet_text(packet))
        self.target.inject(data, self.config.mss)
        self._advance(self._now())

    # ------------------------------------------------------------ packets out

    def _expect(self, packet: Packet) -> None:
        connection = self.exchange.find(packet)
        body = packet.body
        wanted = body.length if isinstance(body, Tcp) and not self.config.strict_segments else 0
        row: list[Live] = []
        total = 0
        time = 0
        try:
            while True:
                time, live = self._next_packet(row)
                self.exchange.learn_outbound(connection, packet, live)
                self.exchange.to_script_numbers(connection, live)
                if row:
                    match.check_fragment(live, row[-1], wanted - total)
                row.append(live)
                total += len(live.payload)
                if total >= wanted:
                    break
            live = match.aggregate(row)
            self.exchange.to_script_time_stamp(connection, packet, live)
            self._compare(packet, live, time, connection)
        except Mismatch as mismatch:
            shown = "".join(f"\n  came:     {seconds(time)} {live_text(live, '>', packet)}" for live in row)
            message = f"{mismatch}\n  expected: {self._due_text()} {packet_text(packet)}{shown}"
            if not self.config.non_fatal_packet or not row:
                raise Mismatch(message) from None
            self.warnings.append(str(self._failure(message)))
        else:
            self._note(live_text(live, ">", packet))

    def _due_text(self) -> str:
        due = self._due
        if due.kind == ANY_TIME:
            return "*"
        return seconds(due.start) if due.start == due.end else f"{seconds(due.start)}~{seconds(due.end)}"

    def _next_packet(self, row: list[Live]) -> tuple[int, Live]:
        """The next packet that the connection under test sends, and when. Raises Mismatch where none comes.

        row: what came already of the packet that is expected.
        """
        due = self._due
        limit = self._now() + ENDLESS_WAIT if due.kind == ANY_TIME else max(due.end, self._now()) + PACKET_WAIT
        busy = True
        while True:
            while self._frames:
                frame = self._frames.popleft()
                live = dissect(frame.data, checksummed=frame.checksummed)
                if self.exchange.is_outbound(live):
                    return frame.time - self._start, live
            if not busy:
                more = "the rest of a packet" if row else "a packet"
                raise Mismatch(f"expected {more}, but none was sent until {seconds(limit)} s")
            busy = self._step(limit)

    def _compare(self, packet: Packet, live: Live, time: int, connection: Connection) -> None:
        tolerance = timing.tolerance(self.config.tolerance, self.config.tolerance_percent, self._due.start)
        lines = match.differences(packet, live, self.config.ts_tick, tolerance)
        if label := match.flow_label_difference(packet, live, connection):
            lines.append(label)
        if lines:
            raise Mismatch("\n  ".join(["another packet than expected:", *lines]))
        timing.check(self._due, time, self._tolerance(), "outbound packet")

    # ------------------------------------------------------------ calls

    def _call(self, event: Event, spec: SystemCall) -> None:
        self._await_pending()
        self._wait("system call")
        if self._pending is not None:
            first = self._pending.event.line
            raise BadEvent(f"found a call while the one in line {first} still blocks, expected it to have returned")
        prepared = calls.prepare(self.context, spec)
        started = self._now()
        self.target.call(prepared.call)
        self._frames.extend(self.target.collect())
        if spec.end is not None:
            end = spec.end + (self._due.offset if event.time.kind == RELATIVE else 0)
            due = Due(EventTime(event.time.kind, end, end), 0)
            self._pending = _Pending(event, prepared, self._due.start, due)
            self._note(f"{spec.name}() starts")
            self._check_pending()
            return
        limit = started + ENDLESS_WAIT
        while prepared.call.finished is None:
            if not self._step(limit) and prepared.call.finished is None:
                self.target.cancel(prepared.call)
                raise Mismatch(f"{spec.name}(): expected it to return, but it still waits at {seconds(self._now())} s")
        self._conclude(prepared)

    def _conclude(self, prepared: Prepared) -> None:
        """Hold a finished call to the script."""
        call = prepared.call
        failed = f" {errno_text(call.errno)}" if call.result < 0 else ""
        self._note(f"{call.name}() = {call.result}{failed}")
        try:
            prepared.verdict()
        except Mismatch as mismatch:
            if not self.config.non_fatal_syscall:
                raise
            self.warnings.append(str(self._failure(str(mismatch))))

    def _check_pending(self) -> None:
        """If the blocking call has returned, hold it to its result and its time."""
        pending = self._pending
        if pending is None or pending.prepared.call.finished is None:
            return
        self._pending = None
        finished = pending.prepared.call.finished - self._start
        try:
            self._conclude(pending.prepared)
            allowed = timing.tolerance(
                self.config.tolerance, self.config.tolerance_percent, pending.due.end - pending.started
            )
            timing.check(pending.due, finished, allowed, f"return of {pending.prepared.call.name}()")
        except Mismatch as mismatch:
            raise self._failure(str(mismatch), pending.event) from None

    def _await_pending(self) -> None:
        """Give the blocking call a second to return, as packetdrill does before another call."""
        limit = self._now() + IDLE_WAIT
        while self._pending is not None and self._step(limit):
            pass

    def _finish(self) -> None:
        """The last event is over: a blocking call must return."""
        self._await_pending()
        if self._pending is not None:
            pending = self._pending
            self.target.cancel(pending.prepared.call)
            raise self._failure(
                f"{pending.prepared.call.name}(): expected it to return, but it still waits at the end", pending.event
            )

    # ------------------------------------------------------------ shell and code

    def _shell(self, command: Command) -> None:
        if self._commands is None:
            raise BadEvent("found a shell command before the start")
        result = self._commands.run(command.text)
        self._shell_messages += result.errors
        self._frames.extend(self.target.collect())
        if result.status != 0:
            raise Mismatch(f"shell command failed with status {result.status}:\n  {command.text.strip()}")

    def _cleanup(self, command: Command) -> None:
        """The last shell lines, pass or fail; what they can't do is only said."""
        if self._commands is not None:
            try:
                result = self._commands.run(command.text)
            except BadEvent as bad:
                self.warnings.append(f"{self.script.path}:{command.line}: {bad}")
            else:
                place = f"{self.script.path}:{command.line}"
                self.warnings.extend(f"{place}: {each}" for each in result.errors.splitlines())

    def _run_code(self, event: Event, code: Code) -> None:
        connection = self.exchange.under_test
        if connection is None:
            raise BadEvent("found a code block and no socket whose state it could see, expected a socket() before it")
        variables = tcp_info(self._option(connection, _SOL_TCP, TCP_INFO, TCP_INFO_LENGTH))
        variables.update(tcp_cc_info(self._option(connection, _SOL_TCP, TCP_CC_INFO, TCP_CC_INFO_LENGTH)))
        variables.update(so_meminfo(self._option(connection, _SOL_SOCKET, SO_MEMINFO, SO_MEMINFO_LENGTH)))
        self.code.run(code.text, event.line, variables)

    def _option(self, connection: Connection, level: int, name: int, length: int) -> bytes:
        if connection.live_fd < 0 or connection.closed:
            raise BadEvent("found a code block whose socket is not open, expected one that was accepted and not closed")
        call = Call("getsockopt", (connection.live_fd, level, name, length))
        self.target.call(call)
        if call.finished is None or call.result < 0:
            raise Mismatch(f"code block: the state of the socket can't be had: {errno_text(call.errno)}")
        return call.output.data
