"""A thousand stacks in one process; and stacks that don't know of each other."""

from __future__ import annotations

import os
import resource
import threading

import usernet
from usernet import drivers

MANY = 1000


def test_a_thousand_stacks():
    """One thread drives them all, no stack needs a descriptor of its own, and each of them works."""
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    stacks = [usernet.Stack(f"stack{number}").start() for number in range(MANY)]
    try:
        for left, right in zip(stacks[::2], stacks[1::2], strict=True):
            one, two = drivers.veth()
            left.add_device(one, "eth0", "10.0.0.1/24")
            right.add_device(two, "eth0", "10.0.0.2/24")
        assert [thread.name for thread in threading.enumerate()].count("usernet-runner") == 1
        assert threading.active_count() <= threads + 1
        assert len(os.listdir("/proc/self/fd")) - before < 20 < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for number in (0, MANY // 2, MANY - 2):
            left, right = stacks[number], stacks[number + 1]
            with right.socket() as listener, left.socket() as client:
                listener.bind(("", 80))
                listener.listen()
                client.connect(("10.0.0.2", 80))
                connection, _ = listener.accept()
                with connection:
                    client.sendall(b"ping")
                    assert connection.recv(10) == b"ping"
                    connection.sendall(left.name.encode())
                    assert client.recv(10) == left.name.encode()
        assert all(stack.mib["Tcp"]["InSegs"] == 0 for stack in stacks[2 : MANY // 2])
    finally:
        for stack in stacks:
            stack.close()


def test_stacks_with_equal_addresses_do_not_see_each_other():
    with usernet.Stack("one") as one, usernet.Stack("two") as two:
        for stack in (one, two):
            near, _ = drivers.veth()
            stack.add_device(near, "eth0", "10.0.0.1/24")
        with one.socket() as first, two.socket() as second, two.socket() as stranger:
            for sock in (first, second):
                sock.bind(("10.0.0.1", 80))
                sock.listen()
            with one.socket() as client:
                client.connect(("10.0.0.1", 80))
                second.setblocking(False)
                accepted, peer = first.accept()
                assert peer == client.getsockname()
                accepted.close()
                assert second._socket is not None
                assert second._socket.poll() == 0
            second.close()
            # In one there is a listener; in two there is none any more.
            assert stranger.connect_ex(("10.0.0.1", 80)) == 111
        assert two.mib["Tcp"]["PassiveOpens"] == 0
        assert one.mib["Tcp"]["PassiveOpens"] == 1
