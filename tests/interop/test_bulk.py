"""Bulk data of several connections at once, received over a TAP or TUN without offload: every byte in its place."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.interop.bed import HOST, Bed, stack_bed
from tests.support import netns

pytestmark = netns.INTEROP

PORT: Final = 7000
SIZE: Final = 6 << 20


def receive(bed: Bed, blocks: list[bytes]) -> list[bytes]:
    """Have the kernel send each of `blocks` on a connection of its own, all at once; returns what arrived."""
    with ExitStack() as to_close:
        listener: Any = to_close.enter_context(bed.stack.socket())
        listener.bind(("", PORT))
        listener.listen()
        pairs: list[tuple[Any, socket.socket]] = []
        for _ in blocks:
            with bed.client.entered():
                kernel = to_close.enter_context(socket.socket())
            kernel.settimeout(60)
            kernel.connect((HOST, PORT))
            ours = to_close.enter_context(listener.accept()[0])
            ours.settimeout(60)
            pairs.append((ours, kernel))
        got = [bytearray() for _ in blocks]

        def send(kernel: socket.socket, block: bytes) -> None:
            kernel.sendall(block)
            kernel.shutdown(socket.SHUT_WR)

        def read(ours: Any, into: bytearray) -> None:
            while part := ours.recv(1 << 17):
                into += part

        threads = [
            thread
            for (ours, kernel), block, into in zip(pairs, blocks, got, strict=True)
            for thread in (
                threading.Thread(target=send, args=(kernel, block)),
                threading.Thread(target=read, args=(ours, into)),
            )
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [bytes(into) for into in got]


@pytest.mark.parametrize("tun", [False, True], ids=["tap", "tun"])
def test_two_connections_at_once(tun):
    source = random.Random(2)
    blocks = [source.randbytes(SIZE), source.randbytes(SIZE)]
    with stack_bed(tun=tun, offload=False) as bed:
        counters = bed.stack.devices["eth0"].statistics
        got = receive(bed, blocks)
        assert [len(block) for block in got] == [SIZE, SIZE]
        assert got == blocks
        assert counters.rx_packets >= 2 * SIZE // 1448
        assert counters.rx_bytes >= 2 * SIZE + counters.rx_packets * (40 if tun else 54)
        assert bed.stack.mib["Tcp"]["InCsumErrors"] == 0


def test_packets_of_one_size_after_those_of_another():
    """As when the MTU is changed between two connections."""
    source = random.Random(3)
    with stack_bed(offload=False) as bed:
        for mtu in (1500, 1001, 600, 1500):
            bed.client.run("ip", "link", "set", "net0", "mtu", str(mtu))
            blocks = [source.randbytes(1 << 20)]
            assert receive(bed, blocks) == blocks
