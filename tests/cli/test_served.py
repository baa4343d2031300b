"""The tools on the stack of a service, but for what the service itself is tested for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tests.netd.serving import LO, serving
from tests.support.stacks import until
from usernet.cli import served
from usernet.netd import protocol
from usernet.netd.client import Client, Packets
from usernet.wire import ethernet, pcapng


def test_tcpdump_shows_devices_and_directions(tmp_path: Path):
    with serving(tmp_path) as there, there.client() as client, there.client() as other:
        lines: list[str] = []
        texts: list[str] = []
        words = ("-n", "-c", "4", "udp", "port", "9")
        watching = threading.Thread(
            target=lambda: texts.append(served.run(client, "tcpdump", words, out=lines.append))
        )
        watching.start()
        until(lambda: there.server.control._streams, "nobody looks")
        sock = other.socket(2, 2)
        sock.bind((LO, 9))
        for _ in range(2):
            sock.sendto(b"data", (LO, 9))
        watching.join(20)
        sock.close()
        # On the loopback each is seen as it goes and as it comes.
        assert [re.sub(r"^[0-9:.]+ (lo +\w+ ).*", r"\1", line) for line in lines] == ["lo    Out ", "lo    In "] * 2
        assert texts == ["\n".join(lines)]
        until(lambda: not there.server.control._streams)
        with_device = served.run(client, "ip", ("-br", "link"))
        assert with_device.startswith("lo ")


class Slow:
    """A client whose service left packets out."""

    @contextmanager
    def watch(self, *devices: str) -> Iterator[Packets]:
        packets = Packets(cast("Any", None))
        data = pcapng.section_header() + pcapng.interface_description("eth0", pcapng.LINKTYPE_ETHERNET)
        packets.answered(protocol.Chunk(1, data), [])
        frame = ethernet.build(b"\2" * 6, b"\4" * 6, 0x88B5) + bytes(46)
        packets.answered(protocol.Chunk(1, pcapng.enhanced_packet(0, 0, [frame], len(frame)), 3), [])
        yield packets


def test_tcpdump_says_what_was_lost():
    client = cast(Client, Slow())
    assert served.run(client, "tcpdump", ("-c", "1")).splitlines()[1:] == [
        "3 packets lost: this end was slower than they came"
    ]
