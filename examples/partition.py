"""A test of a client that must survive a network that falls apart: cut the cable, see what it does, mend the cable.

Minutes of waiting take no time, and a failure, should there be one, is the same each time.

    pytest examples/partition.py
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import usernet
from usernet import drivers


def ask(stack: usernet.Stack, sleep: Callable[[float], None], tries: int = 5) -> bytes:
    """The client under test: asks a server, and tries again with growing pauses where there is no answer."""
    for number in range(tries):
        with stack.socket() as sock:
            sock.settimeout(2.0)
            try:
                sock.connect(("10.0.0.2", 7))
                sock.sendall(b"are you there?")
                return sock.recv(100)
            except OSError:
                sleep(2.0**number)
    raise TimeoutError(f"no answer to {tries} tries")


def echo(stack: usernet.Stack) -> None:
    """A server that answers each connection with what it said."""
    with stack.socket() as listener:
        listener.bind(("", 7))
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(100))


def test_client_outlives_a_partition() -> None:
    with usernet.Lab(seed=1) as lab:
        near, far = drivers.veth()
        cable = drivers.Impair(near, delay=0.005, seed=1)
        client, server = lab.host("client"), lab.host("server")
        client.add_device(cable, "eth0", "10.0.0.1/24")
        server.add_device(far, "eth0", "10.0.0.2/24")
        lab.spawn(echo, server, daemon=True)

        def mend() -> None:
            lab.sleep(12)
            cable.change(loss=0)

        cable.change(loss=1)

        lab.spawn(mend)
        answer = lab.join(lab.spawn(ask, client, lab.sleep))
        assert answer == b"are you there?"
        assert 12 < lab.now < 30, lab.now


def test_client_gives_up() -> None:
    with usernet.Lab(seed=1) as lab:
        client, _ = lab.hosts(2, loss=1)
        with pytest.raises(TimeoutError, match="5 tries"):
            lab.join(lab.spawn(ask, client, lab.sleep))
        assert lab.now > 2 * 5 + 1 + 2 + 4 + 8
