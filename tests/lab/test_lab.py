"""Hosts on virtual time: exact, repeatable, and nothing left at the end."""

from __future__ import annotations

import errno
import http.client
import http.server
import io
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import usernet
from usernet.core.interrupts import InterruptGuard
from usernet.core.loop import ENTERED
from usernet.core.timer import Timer
from usernet.lab import Lab, StalledError, Task
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import Driver
from usernet.stack import Stack

PORT = 80


def transfer(lab: Lab, a: Stack, b: Stack, data: bytes, received: list[bytes]) -> tuple[Task, Task]:
    def serve() -> None:
        with b.socket() as listener:
            listener.bind(("", PORT))
            listener.listen()
            connection, _ = listener.accept()
            with connection:
                connection.sendall(data)

    def fetch() -> None:
        with a.socket() as sock:
            sock.connect(("10.0.0.2", PORT))
            while part := sock.recv(65536):
                received.append(part)

    return lab.spawn(serve), lab.spawn(fetch)


def run_once(seed: int) -> bytes:
    file = io.BytesIO()
    received: list[bytes] = []
    data = bytes(range(256)) * 800
    with usernet.Lab(seed=seed) as lab:
        a, b = lab.hosts(2, delay=0.01, jitter=0.002, loss=0.03, duplicate=0.01, reorder=0.02, rate=20e6)
        with b.capture(file):  # type: ignore[arg-type]
            transfer(lab, a, b, data, received)
            lab.run()
            lab.run(until=lab.now + 120)
    assert b"".join(received) == data
    return file.getvalue()


def test_two_runs_with_one_seed_give_the_same_bytes():
    first = run_once(7)
    assert len(first) > 100_000
    assert run_once(7) == first
    assert run_once(8) != first


def test_a_lab_tells_the_seed_it_made():
    with usernet.Lab() as lab:
        seed = lab.seed
    assert seed >= 0
    assert f"seed={seed}" in repr(lab)


def test_time_stands_still_while_a_task_runs_and_moves_exactly():
    with usernet.Lab(seed=1) as lab:
        stamps = []

        def sleeper() -> None:
            stamps.append(lab.now)
            lab.sleep(1.5)
            stamps.append(lab.now)
            lab.sleep(0)
            stamps.append(lab.now)

        lab.spawn(sleeper)
        lab.run()
        assert stamps == [0.0, 1.5, 1.5]
        lab.sleep(3600)
        assert lab.now == 3601.5
        with pytest.raises(ValueError, match="non-negative"):
            lab.sleep(-1)


def test_a_blocking_call_completes_at_the_exact_time():
    with usernet.Lab(seed=1) as lab:
        a, b = lab.hosts(2, delay=0.25)
        times: dict[str, float] = {}

        def serve() -> None:
            with b.socket() as listener:
                listener.bind(("", PORT))
                listener.listen()
                connection, _ = listener.accept()
                times["accepted"] = lab.now
                with connection:
                    connection.recv(10)
                    times["received"] = lab.now

        def fetch() -> None:
            lab.sleep(10)
            with a.socket() as sock:
                sock.connect(("10.0.0.2", PORT))
                times["connected"] = lab.now
                sock.send(b"x")
                sock.settimeout(0.125)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
                times["timed out"] = lab.now

        lab.spawn(serve)
        lab.spawn(fetch)
        lab.run()
    # ARP takes one round trip, the handshake another; then what was sent arrives half a round trip later.
    assert times == {"connected": 11.0, "accepted": 11.25, "received": 11.25, "timed out": 11.125}


def test_main_may_call_what_waits_without_a_task():
    with usernet.Lab(seed=1) as lab:
        a, b = lab.hosts(2, delay=0.1)
        with (
            b.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            a.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("", 53))
            client.sendto(b"hello", ("10.0.0.2", 53))
            data, _ = server.recvfrom(100)
            assert data == b"hello"
            # The announcement of b, on its way since b has its address, answers the ARP request of a.
            assert lab.now == pytest.approx(0.2)
        with a, b:
            pass
        assert a.closed


def test_tasks_take_turns_in_the_order_in_which_they_were_woken():
    with usernet.Lab(seed=1) as lab:
        order: list[str] = []

        def step(name: str) -> None:
            for _ in range(3):
                order.append(name)
                lab.sleep(1)

        for name in "abc":
            lab.spawn(step, name)
        lab.run()
        assert "".join(order) == "abcabcabc"


def test_results_and_errors_of_tasks():
    with usernet.Lab(seed=1) as lab:
        task = lab.spawn(lambda: 42)
        with pytest.raises(RuntimeError, match="not ended"):
            task.result()
        lab.run()
        assert task.result() == 42
        assert task.done
        failing = lab.spawn(int, "x", name="failing")
        with pytest.raises(ValueError, match="invalid literal"):
            lab.run()
        assert "failed" in repr(failing)
        seen: list[object] = []

        def watch() -> None:
            try:
                lab.join(lab.spawn(int, "y"))
            except ValueError as problem:
                seen.append(problem)

        lab.spawn(watch)
        lab.run()
        assert len(seen) == 1


def test_run_until_a_time_leaves_the_tasks_waiting():
    with usernet.Lab(seed=1) as lab:
        woken: list[float] = []

        def sleeper() -> None:
            lab.sleep(5)
            woken.append(lab.now)

        task = lab.spawn(sleeper)
        lab.run(until=2)
        assert lab.now == 2
        assert not task.done
        with pytest.raises(ValueError, match="until"):
            lab.run(until=1)
        lab.run(until=5)
        assert woken == [5]


def test_a_wait_that_nothing_can_end_is_told_of():
    with usernet.Lab(seed=1) as lab:
        a = lab.host("a")

        def wait() -> None:
            with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("", 99))
                sock.recv(1)

        lab.spawn(wait)
        with pytest.raises(StalledError):
            lab.run()


def test_closing_ends_the_tasks_that_wait():
    ended: list[str] = []
    lab = usernet.Lab(seed=1)
    a = lab.host("a")

    def wait() -> None:
        try:
            with a.socket() as sock:
                sock.bind(("", 99))
                sock.listen()
                sock.accept()
        finally:
            ended.append("wait")

    def stubborn() -> None:
        try:
            lab.sleep(100)
        except BaseException:
            ended.append("stubborn")
            lab.sleep(1)

    lab.spawn(wait, daemon=True)
    lab.spawn(stubborn, daemon=True)
    lab.run(until=1)
    never = lab.spawn(ended.append, "never")
    lab.close()
    lab.close()
    assert sorted(ended) == ["stubborn", "wait"]
    assert never.done
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("usernet-lab")]
    with pytest.raises(RuntimeError, match="closed"):
        lab.spawn(int)


def test_an_error_in_the_with_block_still_closes():
    with pytest.raises(KeyError), usernet.Lab(seed=1) as lab:
        lab.spawn(lab.sleep, 5)
        lab.sleep(1)
        raise KeyError


def test_an_interrupt_ends_the_run_and_the_lab_stays_whole():
    with usernet.Lab(seed=1) as lab:
        a, b = lab.hosts(2, delay=0.1)
        steps: list[float] = []

        def worker() -> None:
            lab.sleep(1)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                lab.sleep(1)
                steps.append(lab.now)

        task = lab.spawn(worker)
        with pytest.raises(KeyboardInterrupt):
            lab.run(until=500)
        assert len(steps) < 500
        received: list[bytes] = []
        transfer(lab, a, b, b"after all", received)
        lab.run()
        assert task.done
        assert steps == [float(second) for second in range(2, 1002)]
        assert received == [b"after all"]


@pytest.mark.parametrize("tasks", [False, True])
def test_an_interrupt_never_cuts_a_batch(tasks: bool):
    """A storm of signals whose handlers raise, over a lab that the main thread drives, or sleeps in."""

    class Stop(Exception):
        pass

    torn: list[str] = []
    armed = [False]
    interrupted = 0
    main = threading.get_ident()

    def handler(signum: int, frame: object) -> None:
        if main in ENTERED:
            torn.append("a handler ran inside")
        if armed[0]:
            armed[0] = False
            raise Stop

    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(0.0005)

    before = signal.signal(signal.SIGUSR1, handler)
    storming = threading.Thread(target=storm)
    try:
        with usernet.Lab(seed=1) as lab:
            a, b = lab.hosts(2, delay=0.001)
            busy = [False]

            def fire(now: int) -> None:
                if busy[0]:
                    torn.append("a timer was cut")
                busy[0] = True
                for _ in range(200):
                    pass
                busy[0] = False
                timer.mod(now + 100_000)

            timer = Timer(a.loop.timers, fire)
            with a._entered():
                timer.mod(a.loop.now)
            if tasks:
                lab.spawn(lab.sleep, 1e6, daemon=True)
            data = bytes(range(256)) * 400
            received: list[bytes] = []
            transfers = transfer(lab, a, b, data, received)
            storming.start()
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                armed[0] = True
                try:
                    lab.run(until=lab.now + 0.05)
                except Stop:
                    interrupted += 1
                armed[0] = False
            over.set()
            storming.join()
            assert all(task.done for task in transfers)
            assert b"".join(received) == data
            with a._entered():
                timer.delete()
    finally:
        over.set()
        signal.signal(signal.SIGUSR1, before)
    assert torn == []
    assert interrupted > 5


def test_an_interrupt_ends_a_simulation_without_end():
    """One that never gets to the end of the wait: the main thread itself drives it."""
    with usernet.Lab(seed=1) as lab:
        lab.hosts(1)
        begun = time.monotonic()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

        def again() -> None:
            while True:
                lab.sleep(1e-6)

        task = lab.spawn(again)
        with pytest.raises(KeyboardInterrupt):
            lab.run()
        assert time.monotonic() - begun < 5
        assert not task.done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert InterruptGuard.installed(signal.SIGINT) is signal.default_int_handler


def test_run_is_not_for_tasks_and_waiting_not_for_strange_threads():
    with usernet.Lab(seed=1) as lab:
        lab.spawn(lab.run)
        with pytest.raises(RuntimeError, match="join"):
            lab.run()
        problems: list[BaseException] = []

        def task() -> None:
            def stranger() -> None:
                try:
                    lab.sleep(1)
                except RuntimeError as problem:
                    problems.append(problem)

            thread = threading.Thread(target=stranger)
            thread.start()
            thread.join()

        lab.spawn(task)
        lab.run()
        assert "spawn" in str(problems[0])


def test_hosts_in_a_row_reach_each_other_through_those_between():
    with usernet.Lab(seed=1) as lab:
        hosts = lab.hosts(4, delay=0.01)
        with (
            hosts[3].socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            hosts[0].socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("", 53))
            client.sendto(b"far", ("10.0.2.2", 53))
            data, peer = server.recvfrom(10)
            assert (data, peer[0]) == (b"far", "10.0.0.1")
            server.sendto(b"back", peer)
            assert client.recv(10) == b"back"
        assert [host.name for host in hosts] == ["a", "b", "c", "d"]


def test_wrong_arguments_name_the_field():
    with usernet.Lab(seed=1) as lab:
        with pytest.raises(ValueError, match="count"):
            lab.hosts(0)
        with pytest.raises(ValueError, match="network"):
            lab.hosts(2, network="10.0.0.1/24")
        with pytest.raises(ValueError, match="network"):
            lab.hosts(2, network="10.0.0.0/31")
        a, b = lab.host(), lab.host()
        with pytest.raises(ValueError, match="loss"):
            lab.cable(a, b, loss=2)
        with pytest.raises(TypeError):
            lab.cable(a, b, colour=2)


class Descriptor(Driver):
    def open(self, dev: NetDevice) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def carrier(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0


def test_a_device_of_the_host_has_no_virtual_time():
    with usernet.Lab(seed=1) as lab:
        host = lab.host()
        with pytest.raises(OSError, match="virtual time") as caught:
            host.add_device(Descriptor(), "tap0")
        assert caught.value.errno == errno.EOPNOTSUPP
        assert list(host.devices) == ["lo"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_http_server_and_client_of_the_standard_library(tmp_path: Path):
    with usernet.Lab(seed=5) as lab:
        a, b = lab.hosts(2, delay=0.02, loss=0.02)
        bodies: list[bytes] = []
        with usernet.patched(b):
            server = http.server.HTTPServer(("10.0.0.2", 8080), Handler)
        lab.serve(server)

        def fetch(path: str) -> None:
            connection = http.client.HTTPConnection("10.0.0.2", 8080, timeout=60)
            for _ in range(3):
                connection.request("GET", path)
                bodies.append(connection.getresponse().read())
            connection.close()

        with usernet.patched(a):
            lab.spawn(fetch, "/one")
            lab.spawn(fetch, "/other")
            lab.run()
        server.server_close()
        lab.run(until=lab.now + 1)
    assert sorted(map(len, bodies)) == [4000] * 3 + [6000] * 3
