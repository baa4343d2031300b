"""Datagrams of 18 bytes (64-byte frames) per second, each way, as many as get through.

    python bench/udp.py [--seconds S] [--rounds N]

The kernel is on the other end of a TAP; beside it kernel to kernel over veth in the same round. The same program runs
on either side: a loop over sendto(), and one over recv(), which counts what arrives. Needs root (namespaces, TAP).
"""

from __future__ import annotations

from typing import Any

import _net as net

PORT = 5001

# Ends with some empty datagrams, so that the receiver knows.
SEND = """
import time
def send(s, address, seconds):
    block = bytes(18); end = time.monotonic() + seconds; s.connect(address)
    while time.monotonic() < end:
        for _ in range(50):
            try:
                s.send(block)
            except (ConnectionRefusedError, OSError):
                pass
    for _ in range(20):
        time.sleep(0.02)
        try:
            s.send(b"")
        except OSError:
            pass
    s.close()
"""

RECEIVE = """
import time
def receive(s):
    s.recv(64); count = 0; begin = last = time.monotonic()
    while s.recv(64):
        count += 1
    last = time.monotonic(); s.close()
    return count / (last - begin)
"""

KERNEL_SEND = (
    SEND
    + """
import socket, sys
print("ready", flush=True); send(socket.socket(2, 2), (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])); print(0)
"""
)
KERNEL_RECEIVE = (
    RECEIVE
    + """
import socket, sys
s = socket.socket(2, 2); s.setsockopt(1, 8, 1 << 20); s.bind(("0.0.0.0", int(sys.argv[1]))); print("ready", flush=True)
print(receive(s))
"""
)

OURS: dict[str, Any] = {}
exec(SEND + RECEIVE, OURS)


def kernel(seconds: float) -> tuple[float]:
    """Kernel to kernel over veth."""
    with net.veth_pair() as (a, b):
        receiver = net.peer(a, KERNEL_RECEIVE, str(PORT))
        net.answer(net.peer(b, KERNEL_SEND, "10.78.0.1", str(PORT), str(seconds)))
        return (net.answer(receiver)[0],)


def stack_sends(seconds: float) -> tuple[float]:
    """The stack sends, the kernel counts."""
    with net.tap_stack() as (name, stack):
        receiver = net.peer(name, KERNEL_RECEIVE, str(PORT))
        OURS["send"](stack.socket(2, 2), ("10.77.0.1", PORT), seconds)
        return (net.answer(receiver)[0],)


def stack_receives(seconds: float) -> tuple[float]:
    """The kernel sends, the stack counts."""
    with net.tap_stack() as (name, stack):
        stack.sysctl["net.core.rmem_max"] = 1 << 20
        sock = stack.socket(2, 2)
        sock.setsockopt(1, 8, 1 << 20)
        sock.bind(("", PORT))
        sender = net.peer(name, KERNEL_SEND, "10.77.0.2", str(PORT), str(seconds))
        rate: float = OURS["receive"](sock)
        net.answer(sender)
        return (rate,)


def main() -> None:
    """Measure, and print the table."""
    rows = [
        ("kernel to kernel, veth", kernel),
        ("the stack sends", stack_sends),
        ("the stack receives", stack_receives),
    ]
    net.compare(__doc__, "datagrams of 18 B", ("per second",), rows)


if __name__ == "__main__":
    main()
