"""What an idle connection holds, as tracemalloc counts it: the figure of bench/memory.py must not grow unseen."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

import usernet
from usernet import drivers
from usernet.core.clock import ManualClock

COUNT = 200


def connections(count: int, client: usernet.Stack, server: usernet.Stack, listener: Any) -> list[Any]:
    """Both ends of `count` connections."""
    ends = []
    for _ in range(count):
        sock = client.socket()
        sock.setblocking(False)
        sock.connect_ex(("10.0.0.2", 80))
        for _ in range(4):
            client.poll(0)
            server.poll(0)
        ends += [sock, listener.accept()[0]]
    return ends


@pytest.mark.skipif(tracemalloc.is_tracing(), reason="something else counts")
def test_an_idle_connection_holds_less_than_4_kib() -> None:
    client, server = (usernet.Stack(name, clock=ManualClock(0), seed=1) for name in ("client", "server"))
    near, far = drivers.veth()
    client.add_device(near, "eth0", "10.0.0.1/24")
    server.add_device(far, "eth0", "10.0.0.2/24")
    listener = server.socket()
    listener.bind(("", 80))
    listener.listen(COUNT)
    listener.setblocking(False)
    kept = connections(50, client, server, listener)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept += connections(COUNT, client, server, listener)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / (2 * COUNT) <= 4096
    assert len(kept) == 2 * (COUNT + 50)
    for end in (*kept, listener):
        end.close()
    client.close()
    server.close()
