"""Before a reader sleeps, it looks at the device itself."""

from __future__ import annotations

import socket

import pytest

import usernet
from tests.support import netns
from tests.support.running import PATIENCE
from usernet import drivers
from usernet.sock.sock import LOOK_EVERY, LOOK_MISSES

pytestmark = netns.INTEROP


def test_a_reader_looks_at_the_device_where_that_pays():
    """Without busy-polling once, before it sleeps; after many looks in vain only now and then."""
    with netns.Netns("looks") as namespace, usernet.Stack("a") as stack:
        tap = drivers.Tap("dut", address="10.77.0.1/24", netns=namespace.name)
        napi = stack.add_device(tap, "eth0", "10.77.0.2/24").napi
        with namespace.entered():
            listener = socket.create_server(("10.77.0.1", 80))
        with listener, stack.socket() as sock:
            sock.connect(("10.77.0.1", 80))
            peer, _ = listener.accept()
            with peer:
                sock.settimeout(0.001)
                for number in range(1, 2 * LOOK_MISSES):
                    with pytest.raises(TimeoutError):
                        sock.recv(1)
                    assert napi.missed == number
                sock.settimeout(PATIENCE)
                for number in range(2 * LOOK_EVERY):
                    peer.send(bytes([number]))
                    assert sock.recv(100) == bytes([number])
