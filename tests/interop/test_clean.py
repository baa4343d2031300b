"""Nothing is left of a busy stack: in it when its sockets are closed, in the process and the host when it is."""

from __future__ import annotations

import os
import socket

import usernet
import usernet.socket
from tests.interop import services
from tests.interop.bed import HOST, KERNEL, stack_bed
from tests.support import netns

pytestmark = [*netns.INTEROP, netns.requires_program("curl", "ping")]


def test_everything_is_left_clean():
    """Threads, descriptors and child processes are looked for after every test; here also what else there could be."""
    with stack_bed() as bed:
        name = bed.client.name
        with bed.client.entered():
            listener = socket.create_server((KERNEL, 7000))
        with usernet.patched(bed.stack), services.serving():
            for _ in range(5):
                assert bed.client.run("curl", "-sS", f"http://{HOST}/").stdout == "It works.\n"
            bed.client.run("ping", "-q", "-f", "-c", "100", "-s", "3000", HOST)
            # One connection is closed by each end, and one is never accepted.
            for closer in (0, 1):
                ours = usernet.socket.create_connection((KERNEL, 7000))
                kernel, _ = listener.accept()
                pair = [ours, kernel]
                pair[closer].close()
                assert pair[1 - closer].recv(1) == b""
                pair[1 - closer].close()
            abandoned = usernet.socket.create_connection((KERNEL, 7000))
            listener.close()
            abandoned.settimeout(10)
            try:
                assert abandoned.recv(1) == b""
            except ConnectionResetError:
                pass
            abandoned.close()
        netns.wait_until(lambda: not bed.stack.sockets(), "the stack's sockets to end")
        assert bed.stack.mib["Tcp"]["CurrEstab"] == 0
        assert "net0" in bed.client.run("ip", "link").stdout
        bed.stack.remove_device("eth0")
        # Closing the driver took the kernel's device away.
        assert "net0" not in bed.client.run("ip", "link").stdout
    assert not os.path.exists(f"/run/netns/{name}")
    assert repr(bed.stack).startswith("<usernet.Stack 'interop' closed")
