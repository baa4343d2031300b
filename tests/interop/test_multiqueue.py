"""Workers on the queues of one TAP, with the kernel's stack at the other end."""

from __future__ import annotations

import errno
import os
import signal

import pytest

import usernet
from tests.support import netns
from usernet import drivers

pytestmark = netns.INTEROP


def serve(stack: usernet.Stack, number: int) -> None:
    """Answer each connection with this worker's number."""
    with stack.socket() as listener:
        listener.bind(("", 80))
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            connection.sendall(bytes((48 + number,)))
            connection.close()


def test_two_workers_serve_as_one_host():
    with netns.Netns("workers") as peer:
        device = drivers.Tap("dut", queues=2, address="10.77.0.1/24", netns=peer.name)
        with usernet.workers(device, serve, "10.77.0.2/24") as group:
            program = (
                "import socket\n"
                "for _ in range(60):\n"
                "    for _ in range(50):\n"
                "        try: s = socket.create_connection(('10.77.0.2', 80), 5); break\n"
                "        except ConnectionRefusedError: __import__('time').sleep(0.1)\n"
                "    print(s.recv(1).decode(), end='')\n"
            )
            answers = peer.run("python3", "-c", program).stdout
            assert len(answers) == 60
            assert set(answers) == {"0", "1"}
            # One ends: its queue goes with it, and the other serves alone.
            os.kill(group.pids[0], signal.SIGTERM)
            group.processes[0].join()
            assert set(peer.run("python3", "-c", program).stdout) == {"1"}
            assert group.exit_codes == [-signal.SIGTERM, None]
        assert group.join(5)


def test_a_device_of_several_queues_is_not_for_one_stack():
    with netns.Netns("queues") as peer, usernet.Stack() as stack:
        with pytest.raises(OSError, match="keep") as problem:
            stack.add_device(drivers.Tap("dut", queues=3, netns=peer.name), "eth0")
        assert problem.value.errno == errno.EINVAL
        tap = drivers.Tap("dut", queues=3, netns=peer.name)
        with pytest.raises(IndexError):
            tap.keep(3)
        tap.keep(1)
        stack.add_device(tap, "eth0", "10.77.0.2/24")
