"""The service: all stacks of a configuration, each with its Unix socket, until a signal ends them in order.

The main thread does nothing but wait, and so drives the stacks. SIGTERM or SIGINT ends the service: no client and no
connection is taken any more; what programs have written to their connections is sent, then the FIN; when all is
acknowledged, or the configuration's grace is over, the rest is reset. A second signal ends it at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, final

from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLIN, Blocking, Wait, WaitQueue
from usernet.netd import build, places, systemd
from usernet.netd.config import Config, StackConfig
from usernet.netd.control import Commands
from usernet.netd.descriptors import raise_descriptors
from usernet.netd.drain import drain
from usernet.netd.server import Server
from usernet.netd.table import ConfigError
from usernet.stack import Stack

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a command that computes lets the thread go on that serves the clients."""


@final
class Service:
    """The stacks of `config`, served. `with Service(config) as service: service.run()`.

    commands: the tools for the command line. fds: sockets that systemd has opened, with their names.
    """

    def __init__(
        self, config: Config, commands: Commands | None = None, fds: list[tuple[str, int]] | None = None
    ) -> None:
        """Raises ConfigError, with nothing left behind."""
        self.config = config
        self.stacks: dict[str, Stack] = {}
        self.servers: dict[str, Server] = {}
        self.paths: dict[str, str] = {}
        self._places: list[places.Place] = []
        self._queue = WaitQueue()
        self._signals = 0
        raise_descriptors()
        given = _given(config, fds or [])
        try:
            listeners = {
                one.name: given.pop(one.name) if one.name in given else self._listen(one)
                for one in config.stacks.values()
            }
            try:
                self.stacks = build.make(config)
                for one in config.stacks.values():
                    self._serve(one, listeners, commands)
            except BaseException:
                for listener in listeners.values():
                    listener.close()
                raise
        except BaseException:
            self.close()
            raise

    def _listen(self, one: StackConfig) -> socket.socket:
        path = places.socket_path(one.socket) if one.socket else os.path.join(places.directory(), f"{one.name}.sock")
        place = places.Place(self.config.source, one.where, path, one.mode, one.group)
        self._places.append(place)
        self.paths[one.name] = path
        return place.socket

    def _serve(self, one: StackConfig, listeners: dict[str, socket.socket], commands: Commands | None) -> None:
        stack = self.stacks[one.name]
        if one.capture:
            try:
                stack.capture(one.capture)
            except OSError as problem:
                text = f"{one.capture}: {problem.strerror}"
                raise ConfigError(self.config.source, f"{one.where}.capture", text) from None
        privileged: Callable[[int], bool] | None = (lambda uid: True) if one.open_control else None
        self.servers[one.name] = Server(
            stack, listeners.pop(one.name), commands=commands, sockets=one.sockets, memory=one.memory,
            clients=one.clients, privileged=privileged,
        )  # fmt: skip

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    # -- running it

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal comes. ready: called when all is up. In the main thread."""
        before: dict[int, Any] = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            systemd.notify("READY=1", f"STATUS=serving {', '.join(self.stacks)}")
            ready()
            next(iter(self.stacks.values())).loop.run_blocked(self._wait())
            systemd.notify("STOPPING=1", "STATUS=closing connections")
            self.end()
        finally:
            sys.setswitchinterval(interval)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wait(self) -> Blocking[None]:
        while not self._signals:
            yield Wait((self._queue,), EPOLLIN, NEVER)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._queue.wake_all(EPOLLIN)

    def stop(self) -> None:
        """What a signal does; may be called from any thread."""
        self._on_signal(0, None)

    def end(self) -> None:
        """Close all connections in order, for as long as each stack's grace lasts, or until a second signal."""
        for server in self.servers.values():
            server.close_connections()
        for place in self._places:
            place.leave()
        for name, one in self.config.stacks.items():
            drain(self.stacks[name], one.grace, lambda: self._signals > 1)

    def close(self) -> None:
        """Close everything. Does nothing the second time."""
        for server in self.servers.values():
            server.close()
        for stack in self.stacks.values():
            stack.close()
        for place in self._places:
            place.leave()
            place.socket.close()
        self._places.clear()


def _given(config: Config, fds: list[tuple[str, int]]) -> dict[str, socket.socket]:
    """The sockets that were passed, by the name of the stack. Raises ConfigError for one that is for none."""
    found: dict[str, socket.socket] = {}
    names = list(config.stacks)
    for label, fd in fds:
        name = label if label in config.stacks else names[0] if len(names) == len(fds) == 1 else ""
        try:
            if not name or name in found:
                raise ValueError(f"descriptor {fd} ({label!r}): expected FileDescriptorName= one of {', '.join(names)}")
            found[name] = systemd.listening_socket(fd)
        except ValueError as problem:
            for sock in found.values():
                sock.close()
            raise ConfigError(config.source, "LISTEN_FDS", str(problem)) from None
    return found
