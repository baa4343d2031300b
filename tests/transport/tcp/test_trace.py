"""TCP's tracepoints, and docs/tracing.md, which lists all there are, and the counters that never count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.transport.tcp.harness import Pair, Peer, flags, sock_of
from tests.transport.tcp.test_md5 import transfer
from usernet.core.mib import TcpExtMib
from usernet.core.trace import TRACEPOINTS
from usernet.wire.tcp import ACK, RST, SYN

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "tracing.md").read_text()
SOURCE = {path: path.read_text() for path in (ROOT / "src" / "usernet").rglob("*.py")}


def test_the_page_lists_all_tracepoints():
    assert re.findall(r"^\| `(\w+)` \|", TEXT.split("## Counters")[0], re.MULTILINE) == list(TRACEPOINTS)


@pytest.mark.parametrize("name", TRACEPOINTS)
def test_each_is_told_somewhere(name: str):
    pattern = re.compile(rf"\btrace\.{name}\b")
    assert any(pattern.search(text) for path, text in SOURCE.items() if path.name != "trace.py"), name


def never_counted() -> set[str]:
    table = TEXT.split("## Counters")[1].split("## Drop reasons")[0]
    return {name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_every_counter_of_tcpext_counts_or_has_a_reason():
    text = "\n".join(text for path, text in SOURCE.items() if path.name != "mib.py")
    counted = {name for name in set(TcpExtMib()) if re.search(rf"\b{name}\b", text)}
    missing = re.search(r"^Not there yet.*?^$", TEXT, re.MULTILINE | re.DOTALL)
    later = set(re.findall(r"`(TCP\w+)`", missing[0])) if missing else set()
    assert set(TcpExtMib()) - counted - later == never_counted()
    assert later <= set(TcpExtMib())


def test_the_kernels_counters_are_all_there():
    """Of this machine's kernel; a newer one may have more."""
    path = Path("/proc/net/netstat")
    if not path.exists():
        pytest.skip("no /proc/net/netstat: not Linux")
    (line, *_) = [line for line in path.read_text().splitlines() if line.startswith("TcpExt:")]
    assert set(TcpExtMib()) >= set(line.split()[1:]) or len(line.split()) - 1 > 135


# -- what they tell


def test_a_transfer_with_loss():
    with Pair(loss=0.03, delay=0.002) as pair:
        seen: dict[str, list[tuple[object, ...]]] = {name: [] for name in TRACEPOINTS}
        for name, events in seen.items():
            pair.left.trace[name].attach(lambda *told, events=events: events.append(told))
        client, server = pair.connected()
        sk = sock_of(client)
        data = b"x" * 600_000
        assert transfer(pair, client, server, data) == data
        assert transfer(pair, server, client, data) == data
        client.close()
        server.close()
        pair.run(100.0)
        states = [(old, new) for told, old, new in seen["inet_sock_set_state"] if told is sk]
        assert states[:2] == [(7, 2), (2, 1)] and states[-1][1] == 7
        assert all(told is sk for told, _ in seen["tcp_sendmsg_locked"]) and seen["tcp_sendmsg_locked"]
        assert len(seen["tcp_retransmit_skb"]) >= pair.left.net.mib.tcp_ext.TCPFastRetrans > 0
        assert seen["tcp_cong_state_set"] and seen["tcp_probe"] and seen["net_dev_xmit"]
        assert all(delivered > 0 for _, delivered, _, _ in seen["tcp_cwnd_reduction_tp"])  # type: ignore[operator]
        assert seen["tcp_cwnd_reduction_tp"]
        assert (sk,) in seen["tcp_destroy_sock"]


def test_a_reader_makes_the_receive_buffer_grow():
    with Pair(delay=0.01) as pair:
        client, server = pair.connected()
        sk = sock_of(server)
        read: list[object] = []
        grown: list[int] = []
        pair.right.trace["tcp_rcv_space_adjust"].attach(read.append)
        pair.right.trace["tcp_rcvbuf_grow"].attach(lambda told, elapsed: grown.append(elapsed))
        before = sk.rcvbuf
        data = b"x" * 3_000_000
        assert transfer(pair, client, server, data) == data
        assert sk.rcvbuf > before
        assert set(read) == {sk} and len(read) > len(grown) > 0
        # Once a round trip
        assert all(elapsed >= 10_000 for elapsed in grown)


def test_a_handshake_and_its_resets():
    with Peer() as peer:
        seen: list[str] = []
        for name in ("tcp_retransmit_synack", "tcp_bad_csum", "tcp_receive_reset", "tcp_send_reset"):
            peer.stack.trace[name].attach(lambda *told, name=name: seen.append(name))
        peer.port, peer.local_port = 5000, 80
        server = peer.listen()
        peer.send(SYN, 0, options=b"\2\4\5\xb4")
        peer.expect(flags(SYN | ACK))
        peer.run(1.1)
        peer.expect(flags(SYN | ACK))
        peer.send(ACK, 1, 1, bad_checksum=True)
        peer.send(ACK, 1, 77)
        peer.expect(flags(RST))
        peer.send(ACK, 1, 1)
        peer.accept(server)
        peer.send(RST, 1)
        assert seen == ["tcp_retransmit_synack", "tcp_bad_csum", "tcp_send_reset", "tcp_receive_reset"]


# -- counters


def test_segments_beyond_the_window_are_counted():
    with Peer() as peer:
        peer.active()
        mib = peer.mib.tcp_ext
        peer.send(ACK, 10_000_000, 1, b"x")
        assert mib.BeyondWindow == 1
        # A SYN and a reset are counted elsewhere, an old segment isn't beyond it.
        peer.send(SYN, 10_000_000)
        peer.send(RST, 10_000_000)
        peer.run(1.0)
        peer.send(ACK, -100, 1, b"x")
        assert mib.BeyondWindow == 1
        peer.send(RST, 1)


def test_a_reset_that_cannot_be_sent_is_counted():
    with Peer() as peer:
        sock = peer.active()
        peer.send(ACK, 1, 1, b"unread")
        peer.stack.set_down("tun0")
        sock.close()
        assert peer.mib.tcp_ext.TCPAbortFailed == 1


def test_a_queue_of_tiny_segments_is_not_split_further():
    """What a peer acknowledges in pieces splits super-segments; the sum of what they take is bounded."""
    with Peer(offload=True) as peer:
        sock = peer.active(sack=True)
        sk = sock_of(sock)
        for _ in range(3):
            sock.send(b"x" * 14600)
            peer.run(0.01)
        assert [skb.gso_segs for skb in sk.rtx_queue] == [5, 4, 1]
        start = (peer.their_iss or 0) + 1 + 6 * 1460
        block = start.to_bytes(4, "big") + (start + 1460).to_bytes(4, "big")
        sk.wmem_queued += 10_000_000
        peer.send(ACK, 1, 1, options=b"\1\1\5\x0a" + block)
        assert peer.mib.tcp_ext.TCPWqueueTooBig >= 1 and sk.sacked_out == 0
        sk.wmem_queued -= 10_000_000
        peer.send(ACK, 1, 1, options=b"\1\1\5\x0a" + block)
        assert sk.sacked_out == 1
        peer.send(RST, 1)
