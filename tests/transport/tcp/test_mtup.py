"""The path's MTU found by TCP itself (mtup, mtu_probe), past a router that swallows what is too large."""

from __future__ import annotations

import pytest

from tests.transport.tcp.harness import Peer, sock_of
from usernet.wire.tcp import ACK

DATA = bytes(range(251)) * 5000


def transfer(peer: Peer, data: bytes, passes: int, rtt: float = 0.02) -> tuple[bytes, list[int]]:
    """The stack sends `data` along a path on which packets of at most `passes` bytes survive. Returns what arrived, and
    the payload lengths in the order of arrival."""
    sock = peer.sock
    assert sock is not None
    arrived: dict[int, bytes] = {}
    lengths = []
    received = bytearray()
    offset = 0
    end = peer.now + 300
    while len(received) < len(data) and peer.now < end:
        if offset < len(data):
            try:
                offset += sock.send(data[offset:])
            except BlockingIOError:
                pass
        peer.settle()
        peer.run(rtt)
        progress = False
        for segment in peer.sent():
            size = len(segment.payload)
            if not size or 20 + segment.doff + size > passes:
                continue
            lengths.append(size)
            arrived[segment.seq] = segment.payload
            while (position := 1 + len(received)) in arrived:
                received += arrived.pop(position)
            # Each brings an acknowledgement, so that what is lost shows by duplicates.
            peer.send(ACK, 1, 1 + len(received))
            progress = True
        if not progress:
            peer.run(0.2)
    return bytes(received), lengths


@pytest.mark.parametrize("ts", [False, True], ids=["plain", "timestamps"])
def test_the_search_finds_what_passes(ts: bool) -> None:
    with Peer(tcp_mtu_probing=2, tcp_base_mss=512) as peer:
        sock = peer.active(ts=ts)
        received, lengths = transfer(peer, DATA, 1300)
        assert received == DATA
        sk = sock_of(sock)
        # Found but for the threshold below which it is not worth another probe.
        assert 1300 - 8 <= 40 + 12 * ts + sk.mss_cache <= 1300
        assert max(lengths) == sk.mss_cache
        assert peer.mib.tcp_ext.TCPMTUPSuccess > 1
        assert peer.mib.tcp_ext.TCPMTUPFail > 1


def test_the_largest_packet_is_used_where_it_passes() -> None:
    with Peer(tcp_mtu_probing=2, tcp_base_mss=512) as peer:
        sock = peer.active()
        received, _ = transfer(peer, DATA, 1500)
        assert received == DATA
        assert sock_of(sock).mss_cache > 1460 - 8
        assert peer.mib.tcp_ext.TCPMTUPFail == 0


def test_a_black_hole_is_got_out_of() -> None:
    with Peer(tcp_mtu_probing=1, tcp_retries1=2) as peer:
        sock = peer.active()
        assert not sock_of(sock).mtup.enabled
        received, lengths = transfer(peer, DATA, 900)
        assert received == DATA
        sk = sock_of(sock)
        assert sk.mtup.enabled
        assert 40 + max(lengths) <= 900
        assert 512 <= sk.mss_cache <= 860


def test_without_the_search_a_black_hole_is_the_end() -> None:
    with Peer(tcp_mtu_probing=0, tcp_retries1=2, tcp_retries2=4) as peer:
        sock = peer.active()
        sock.send(DATA[:5000])
        for _ in range(40):
            peer.run(1.0)
        assert [len(segment.payload) for segment in peer.sent() if len(segment.payload) not in (0, 1460, 620)] == []
        assert sock_of(sock).err or sock_of(sock).state == 7


def test_a_record_is_not_joined_with_the_next_for_a_probe() -> None:
    with Peer(tcp_mtu_probing=2, tcp_base_mss=512) as peer:
        sock = peer.active()
        for _ in range(8):
            # Each of half a probe's size, and to be kept apart.
            sock.send(b"r" * 500, 0x80)
        peer.settle()
        assert {len(segment.payload) for segment in peer.sent()} == {500}
        assert not sock_of(sock).mtup.probe_size
