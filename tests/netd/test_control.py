"""The tools on a served stack: what a queue of them and those who look at packets may be; what a command raises."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.netd.serving import Served, serving
from tests.support.stacks import until
from usernet.netd import protocol
from usernet.netd.client import ServiceError
from usernet.netd.control import ServedCommand


def test_commands_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.netd.control.MAX_COMMANDS", 3)
    gate = threading.Event()

    def slow(stack: Any) -> str:
        assert gate.wait(20)
        return "done"

    with serving(tmp_path) as served:
        _serve(served, slow)
        raw = served.raw()
        raw.say(protocol.Command(1, "slow", []))
        until(lambda: served.server.control._jobs.empty())
        for number in (2, 3, 4):
            raw.say(protocol.Command(number, "slow", []))
        assert raw.ask(protocol.Command(5, "slow", [])).errno == errno.EBUSY
        gate.set()
        for number in (1, 2, 3, 4):
            answer, fds = raw.hear()
            assert answer.id == number
            assert len(fds) == 1


            os.close(fds[0])
        raw.close()


def _serve(served: Served, run: Any) -> None:
    served.server.control._commands = {"slow": ServedCommand(run, lambda words: True)}


def test_a_fault_of_the_service_ends_the_client_that_met_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[object] = []
    monkeypatch.setattr("threading.excepthook", lambda args: told.append(args.exc_type))
    with serving(tmp_path, privileged=lambda uid: False) as served, served.client() as other:
        bad = ServedCommand(lambda stack, *words: "", lambda words: bool(1 // len(words)))
        served.server.control._commands = {"bad": bad}
        with served.client() as client, pytest.raises(ServiceError, match=r"Command came upon a fault .*ZeroDivision"):
            client.command("bad")
        assert told == [ZeroDivisionError]
        assert other.command("bad", "word") == ""


def test_a_command_that_fails_tells_its_client_alone(tmp_path: Path):
    def broken(stack: Any) -> str:
        raise RuntimeError("it broke")

    with serving(tmp_path) as served, served.client() as client:
        _serve(served, broken)
        with pytest.raises(OSError, match="it broke"):
            client.command("slow")
        client.socket().close()


def test_the_client_of_a_command_has_gone(tmp_path: Path):
    gate = threading.Event()

    def slow(stack: Any) -> str:
        assert gate.wait(20)
        return "x" * 1_000_000

    with serving(tmp_path) as served:
        _serve(served, slow)
        raw = served.raw()
        raw.say(protocol.Command(1, "slow", []))
        raw.say(protocol.Command(2, "slow", []))
        until(lambda: served.server.control._jobs.qsize() == 1)
        raw.close()
        until(lambda: not served.server.sessions)
        gate.set()
        with served.client() as client:
            assert len(client.command("slow")) == 1_000_000


def test_those_who_look_at_packets_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.netd.control.MAX_STREAMS", 2)
    with serving(tmp_path) as served:
        raw = served.raw()
        raw.say(protocol.Watch(1, ["lo"]))
        raw.say(protocol.Watch(2, []))
        until(lambda: served.server.control._streams == 2)
        raw.say(protocol.Watch(3, []))
        heard: list[Any] = []
        while not any(isinstance(message, protocol.Failed) for message in heard):
            heard.append(raw.hear()[0])
        assert heard[-1].errno == errno.EBUSY
        raw.say(protocol.Cancel(1))
        until(lambda: served.server.control._streams == 1)
        raw.close()
        until(lambda: not served.server.control._streams)
