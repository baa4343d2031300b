"""docs/limits.md says what is so; and the limits that no other test reaches."""

from __future__ import annotations

import errno
import re
import struct
from importlib import import_module
from pathlib import Path
from types import GetSetDescriptorType
from typing import Any

import pytest

import usernet
from tests.support.compiled import interpreted_only
from tests.transport.tcp.harness import Peer, sock_of
from usernet.core.clock import ManualClock
from usernet.core.mib import MibGroup
from usernet.drivers.vnet_hdr import receive_header
from usernet.net.dst import Dst
from usernet.packetdrill import codeblock, values
from usernet.packetdrill.errors import BadEvent
from usernet.posix.resolver import MAXDNSRCH, candidates
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sockets.address import Names
from usernet.transport.tcp.metrics import MAX_ENTRIES, TcpMetrics
from usernet.transport.tcp.tcp import Tcp
from usernet.wire import virtio_net
from usernet.wire.tcp import ACK, SYN

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "limits.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| What", "| ---"))
]
BOUND = re.compile(
    r"^((?:[A-Z_]*_)?MAX_(?:BACKLOG|ENTRIES|PEERS|EXCEPTIONS|GRO_FLOWS|(?:OFO_)?SEGMENTS|BLOCK|PACKET|BUFFER|OUTPUT|CHAIN)"
    r"|[A-Z]+_RING_SIZE)\b",
    re.MULTILINE,
)
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "src" / "usernet").rglob("*.py")))


# -- the page


@pytest.fixture(scope="module")
def stack() -> Any:
    stack = usernet.Stack("limits", seed=1)
    yield stack
    stack.close()


def test_the_page_has_rows():
    assert len(ROWS) > 50
    assert all(len(row) == 6 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row(row: list[str], stack: usernet.Stack):
    _, setting, default, _, counted, test = row
    name = re.match(r"`([a-zA-Z0-9_.]+)`", setting)
    path = name[1] if name else ""
    if path.startswith("net."):
        value = stack.sysctl.default(path)
        assert default == (" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    elif path.startswith("usernet."):
        assert default == str(constant(path))
    for counter in re.findall(r"`([^`]+)`", counted):
        group, colon, field = counter.partition(": ")
        if colon:
            mib = stack.mib[group]
            assert isinstance(mib, MibGroup)
            assert mib[field] == 0
        elif counter.isupper():
            assert counter in DropReason.__members__
        else:
            assert re.search(rf"\b{counter} (\+=|= )", SOURCE), counter
    where = re.fullmatch(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`", test)
    assert where
    assert re.search(rf"^ *def {where[2]}\(", (ROOT / where[1]).read_text(), re.MULTILINE), test


def constant(path: str) -> object:
    """What a dotted name stands for: of a module, or of a class in one."""
    module, _, name = path.rpartition(".")
    if module.rpartition(".")[2][0].isupper():
        module, _, owner = module.rpartition(".")
        made: Any = getattr(import_module(module), owner)
        found = getattr(made, name)
        # A compiled class keeps what it begins with in its instances.
        return getattr(made(), name) if isinstance(found, GetSetDescriptorType) else found
    return getattr(import_module(module), name)


def test_every_limit_of_the_code_is_on_the_page():
    """Constants whose name says that they bound something, but for those of a format or of an algorithm."""
    found = set()
    for path in sorted((ROOT / "src" / "usernet").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        found |= {f"{module}.{name}" for name in BOUND.findall(path.read_text())}
    assert {name for name in found if f"`{name}`" not in TEXT} == set()


# -- the limits


def test_a_packet_sockets_queue():
    with usernet.Stack("tapped") as stack:
        tap, udp = stack.socket(17, 2, 0x0300), stack.socket(2, 2)
        tap.bind(("lo", 3))
        tap.setsockopt(1, 8, 3000)
        for _ in range(50):
            udp.sendto(bytes(100), ("127.0.0.1", 9))
        counts = tap.getsockopt(263, 6, 8)
        assert isinstance(counts, bytes)
        received, dropped = struct.unpack("=II", counts)
        assert received >= 50
        assert dropped == stack.drops[DropReason.SOCKET_RCVBUFF] > 10
        tap.close()
        udp.close()


def test_a_super_segment_of_too_many_datagrams():
    for count, fits in ((128, True), (129, False)):
        header = virtio_net.build(1, virtio_net.VIRTIO_NET_HDR_GSO_UDP_L4, 0, 10, 34, 6)
        frame = SKBuff(header + bytes(14 + 20 + 8 + 10 * count), 10)
        assert receive_header(frame, 14) is fits


def test_no_port_is_left():
    with usernet.Stack("few") as stack:
        stack.sysctl["net.ipv4.ip_local_port_range"] = "50000 50002"
        held = [stack.socket(2, 2) for _ in range(4)]
        for sock in held[:3]:
            sock.bind(("127.0.0.1", 0))
        with pytest.raises(OSError) as caught:
            held[3].bind(("127.0.0.1", 0))
        assert caught.value.errno == errno.EADDRINUSE
        listener = stack.socket()
        listener.bind(("127.0.0.1", 80))
        listener.listen()
        calling = [stack.socket() for _ in range(4)]
        for sock in calling[:3]:
            sock.connect(("127.0.0.1", 80))
        with pytest.raises(OSError) as caught:
            calling[3].connect(("127.0.0.1", 80))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        for sock in (*held, *calling, listener):
            sock.close()


def test_the_length_of_getsockopt():
    with usernet.Stack("asked") as stack, stack.socket(2, 2) as sock:
        assert sock.getsockopt(1, 8, 1024) == (212992).to_bytes(4, "little")
        with pytest.raises(OSError):
            sock.getsockopt(1, 8, 1025)


def test_a_handshake_ends():
    with Peer(tcp_synack_retries=2) as peer:
        server = peer.listen()
        peer.local_port, peer.port = 80, 1000
        peer.send(SYN, options=peer.syn_options())
        peer.run(60)
        assert [segment.flags for segment in peer.sent()] == [SYN | ACK] * 3
        assert peer.mib.tcp_ext.TCPTimeouts == 3
        assert sock_of(server).request_queue.syn_queue == 0
        assert not peer.stack.net.get(Tcp).table


@interpreted_only
def test_segments_out_of_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.transport.tcp.ofo.MAX_OFO_SEGMENTS", 5)
    with Peer() as peer:
        sock = peer.active()
        for number in range(9):
            peer.send(ACK, 3 + 2 * number, 1, b"x")
        assert len(sock_of(sock).ofo or ()) == 5
        assert peer.mib.tcp_ext.TCPOFODrop == 4 == peer.stack.drops[DropReason.TCP_OFO_DROP]
        peer.sent()


def test_destinations_that_tcp_remembers():
    metrics = TcpMetrics()
    dst = Dst(None, b"", b"", None)
    for number in range(MAX_ENTRIES + 10):
        metrics.make(b"us", number.to_bytes(4, "big"), dst, number)
        metrics.make(b"us", bytes(4), dst, number)
    assert len(metrics) == MAX_ENTRIES
    # The first is the one changed last.
    assert metrics.find(b"us", bytes(4), None, 0) is not None
    assert metrics.find(b"us", (10).to_bytes(4, "big"), None, 0) is None
    assert metrics.find(b"us", (11).to_bytes(4, "big"), None, 0) is not None


def test_suffixes_of_a_name():
    stack = usernet.Stack("named", clock=ManualClock(0), seed=1)
    names = stack.net.get(Names)
    names.search = [f"suffix{number}.example" for number in range(9)]
    assert len(candidates(names, "host")) == MAXDNSRCH + 1
    stack.close()


def test_a_scripts_buffer():
    assert values.checked_size(values.MAX_BUFFER, "write") == values.MAX_BUFFER
    with pytest.raises(BadEvent):
        values.checked_size(values.MAX_BUFFER + 1, "write")


def test_what_a_scripts_code_prints():
    blocks = codeblock.CodeBlocks("printing.pkt")
    blocks.run("for _ in range(20): print('x' * (1 << 17))", 1, {})
    kept = sum(map(len, blocks.output))
    assert codeblock.MAX_OUTPUT <= kept < codeblock.MAX_OUTPUT + (1 << 17) + 2
