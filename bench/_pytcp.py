"""PyTCP (`pmd-pytcp`) doing what the benchmarks measure: run by the Python that has it, which has nothing else of ours.

    PYTHON _pytcp.py send|receive|ask|answer|call|serve DEVICE ADDRESS/BITS PEER PORT SECONDS CHUNK|MANY

It opens a TAP that is there already, says "ready", and prints what it measured. Its sockets are coroutines of one event
loop, which also drives the stack; so are these programs, which otherwise do what the kernel's do.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pmd_net_addr import Ip4Address, Ip4IfAddr, MacAddress
from pmd_pytcp import socket, stack

UNSENT = 1 << 20
"""send() takes whatever it is given; a program on a socket with a buffer would be made to wait. This one stops here."""

NOTSENT_BYTES = 144
"""Offset of tcpi_notsent_bytes in struct tcp_info."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value for which close() resets the connection."""


def ready() -> None:
    """Tell the benchmark that it can begin."""
    print("ready", flush=True)


def make() -> Any:
    """A TCP socket."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def listen(port: int, backlog: int = 128) -> Any:
    """A listening socket."""
    listener = make()
    listener.bind(("0.0.0.0", port))
    listener.listen(backlog=backlog)
    return listener


async def send(peer: str, port: int, seconds: float, chunk: int) -> None:
    """Send for so many seconds, then close."""
    sock = make()
    await sock.connect((peer, port))
    ready()
    block = bytes(chunk)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO)
        if int.from_bytes(info[NOTSENT_BYTES : NOTSENT_BYTES + 4], sys.byteorder) < UNSENT:
            await sock.send(block)
        else:
            await asyncio.sleep(0.002)
    sock.close()
    print(0, flush=True)
    # What stands in its buffer is still to be sent: until the benchmark has enough.
    await asyncio.sleep(60)


async def receive(peer: str, port: int, seconds: float, chunk: int) -> None:
    """Receive until the end; bit/s."""
    listener = listen(port)
    ready()
    sock, _ = await listener.accept()
    count = len(await sock.recv(chunk))
    start = time.monotonic()
    while data := await sock.recv(chunk):
        count += len(data)
    print(count * 8 / (time.monotonic() - start))


async def ask(peer: str, port: int, seconds: float, size: int) -> None:
    """`size` bytes there and back, one after the other: how many a second, the median and the 99th percentile (µs)."""
    sock = make()
    await sock.connect((peer, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ready()
    times = []
    block = bytes(size)
    clock = time.perf_counter
    begin = before = clock()
    while before < begin + seconds:
        await sock.send(block)
        left = size
        while left:
            left -= len(await sock.recv(left))
        now = clock()
        times.append(now - before)
        before = now
    sock.close()
    times.sort()
    print(len(times) / (before - begin), times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6)


async def echo(sock: Any, size: int) -> None:
    """Send everything back until the other end closes."""
    with suppress(OSError):
        while data := await sock.recv(size):
            await sock.send(data)
    sock.close()


async def answer(peer: str, port: int, seconds: float, size: int) -> None:
    """Send everything back, on one connection."""
    listener = listen(port)
    ready()
    sock, _ = await listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await echo(sock, size)


async def call(peer: str, port: int, seconds: float, many: int) -> None:
    """Connect, 64 bytes each way, close with a reset; so many at a time. How many a second."""
    done = 0
    begin = time.monotonic()

    async def one_after_the_other() -> None:
        nonlocal done
        while time.monotonic() < begin + seconds:
            sock = make()
            await sock.connect((peer, port))
            await sock.send(bytes(64))
            await sock.recv(64)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            done += 1

    ready()
    await asyncio.gather(*(one_after_the_other() for _ in range(many)))
    print(done / (time.monotonic() - begin))


async def serve(peer: str, port: int, seconds: float, many: int) -> None:
    """Take connections and send everything back, until killed."""
    listener = listen(port)
    ready()
    tasks = set()
    while True:
        sock, _ = await listener.accept()
        task = asyncio.create_task(echo(sock, 64))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


ROLES: dict[str, Callable[[str, int, float, int], Awaitable[None]]] = {
    "send": send, "receive": receive, "ask": ask, "answer": answer, "call": call, "serve": serve,
}  # fmt: skip


async def main(role: str, device: str, address: str, peer: str, port: str, seconds: str, number: str) -> None:
    """Start the stack on the device and do what is to be done."""
    stack.LOG__CHANNEL.clear()
    opened = stack.initialize_interface__tap(device, mac_address=MacAddress("02:00:00:00:00:77"))
    stack.init()
    stack.add_interface(**opened, ip4_host=Ip4IfAddr(address), ip6_support=False)
    await stack.start()
    # It looks first whether somebody else has the address.
    while Ip4Address(address.partition("/")[0]) not in stack.local_ip4_unicast():
        await asyncio.sleep(0.05)
    await ROLES[role](peer, int(port), float(seconds), int(number))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)
