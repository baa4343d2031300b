"""`usernet ss` beside the system's: the same exchange once between two kernels and once between a kernel and the stack,
and each time the side that accepted shown by its own `ss`. The words must be the same, in the same order.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from typing import Any, Final

import pytest

from tests.interop.bed import HOST, Bed, kernel_bed, stack_bed
from tests.interop.test_tcp import PORT
from tests.support import netns
from usernet.cli import tools

pytestmark = netns.INTEROP

CUBIC: Final = b"cubic"
NEWER: Final = {"rcv_wnd", "rehash"}  # than the system's ss, perhaps
OF_TIME: Final = {
    # There or not as it happens: how long ago, how soon acknowledged, what was waited for.
    "lastsnd", "lastrcv", "lastack", "app_limited", "busy", "rwnd_limited", "sndbuf_limited", "ssthresh", "rcv_rtt",
    "ato", "minrtt", "timer", "bytes_retrans", "retrans", "dsack_dups", "reord_seen", "reordering", "unacked", "uid",
}  # fmt: skip


def words(line: str) -> list[tuple[str, str]]:
    """(word, value) of a line of `ss -i`: word:value, word value, word:(…), or the word alone."""
    found = []
    parts = line.split()
    at = 0
    while at < len(parts):
        word, colon, value = parts[at].partition(":")
        if not colon and word in ("send", "pacing_rate", "delivery_rate"):
            at += 1
            value = parts[at]
        found.append((word, value))
        at += 1
    return found


def exchange(listener: Any, bed: Bed) -> tuple[Any, socket.socket]:
    """A connection from the client's namespace, and 200 requests of 1000 bytes with answers of 3000."""
    with bed.client.entered():
        client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CUBIC)
    client.settimeout(20)
    client.connect((HOST, PORT))
    accepted, _ = listener.accept()
    accepted.settimeout(20)

    def serve() -> None:
        for _ in range(200):
            accepted.recv(1000, socket.MSG_WAITALL)
            accepted.sendall(b"y" * 3000)

    server = threading.Thread(target=serve)
    server.start()
    for _ in range(200):
        client.sendall(b"x" * 1000)
        assert len(client.recv(3000, socket.MSG_WAITALL)) == 3000
    server.join(20)
    # Longer than an acknowledgement is delayed
    time.sleep(0.1)
    return accepted, client


def prepare(listener: Any) -> None:
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CUBIC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, PORT))
    listener.listen()
    listener.settimeout(20)


def kernels(*args: str) -> tuple[str, str]:
    """What the system's `ss` prints of a connection that a kernel accepted."""
    with kernel_bed() as bed:
        with bed.host.entered():
            listener = socket.socket()
        with listener:
            prepare(listener)
            accepted, client = exchange(listener, bed)
            with accepted, client:
                first, second = bed.host.run("ss", "-H", *args).stdout.splitlines()
                return first, second


def stacks(*args: str) -> tuple[str, str]:
    """What ours prints of the same."""
    with stack_bed() as bed, bed.stack.socket() as listener:
        prepare(listener)
        accepted, client = exchange(listener, bed)
        with accepted, client:
            first, second = tools.ss(bed.stack, "-H", *args).splitlines()
            return first, second


def test_the_inside_of_a_connection():
    args = ("-t", "-i", "-n", "-o", "-e", "-m")
    (theirs, their_inside), (ours, our_inside) = kernels(*args), stacks(*args)
    assert their_inside.startswith("\t ") and our_inside.startswith("\t ")
    their_words, our_words = words(their_inside), words(our_inside)
    fixed = OF_TIME | NEWER
    their_names = [name for name, _ in their_words if name not in fixed]
    our_names = [name for name, _ in our_words if name not in fixed]
    assert our_names == their_names
    # What is there or not by chance has its place all the same.
    common = {name for name, _ in their_words} & {name for name, _ in our_words}
    assert [name for name, _ in our_words if name in common] == [name for name, _ in their_words if name in common]
    told, own = dict(their_words), dict(our_words)
    for name in ("mss", "pmtu", "advmss", "bytes_acked", "bytes_received", "cubic", "ts", "sack"):
        assert own[name] == told[name], name
    for side in (told, own):
        # A busy machine lets a loss probe out now and then.
        assert int(side["bytes_sent"]) - int(side.get("bytes_retrans", 0)) == 600_000
    # Numbers of the same form: 204, 5.565/11.103, 10,10, 32768000bps.
    for name in common - {"timer", "skmem"}:
        assert shape(own[name]) == shape(told[name]), name
    assert re.sub(r"\d+", "0", own["skmem"]) == re.sub(r"\d+", "0", told["skmem"])
    # State, queues, addresses, details
    assert ours.split()[:3] == theirs.split()[:3] == ["ESTAB", "0", "0"]
    details = re.compile(r"ino:\d+ sk:[0-9a-f]+ (?:cgroup:\S+ )?<->")
    assert details.search(ours) and details.search(theirs)


def shape(value: str) -> str:
    return re.sub(r"[\d.]+(?:e[+-]\d+)?", "0", value)


@pytest.mark.parametrize("args", [("-t", "-l"), ("-t", "-l", "-i"), ("-t", "-l", "-m", "-n"), ("-t", "-a", "-n", "-O")])
def test_listeners(args: tuple[str, ...]):
    with kernel_bed() as bed:
        with bed.host.entered():
            listener = socket.socket()
        with listener:
            prepare(listener)
            theirs = bed.host.run("ss", *args, "-nH").stdout.splitlines()
    with stack_bed() as bed, bed.stack.socket() as ours_listener:
        prepare(ours_listener)
        ours = tools.ss(bed.stack, *args, "-nH").splitlines()
    assert [line.split() for line in ours] == [line.split() for line in theirs]


def test_a_retransmission_is_timed():
    """Nobody answers: the timer and what of it is in which column."""
    shown = []
    with kernel_bed() as bed:
        with bed.host.entered():
            sock = socket.socket()
        with sock:
            sock.setblocking(False)
            bed.client.run("ip", "link", "set", "net0", "down")
            sock.connect_ex(("10.77.0.1", PORT))
            shown.append(bed.host.run("ss", "-tonH").stdout)
    with stack_bed() as bed, bed.stack.socket() as ours:
        ours.setblocking(False)
        bed.client.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; ip address flush dev net0")
        ours.connect_ex(("10.77.0.1", PORT))
        shown.append(str(tools.ss(bed.stack, "-tonH")))
    wanted = re.compile(r"SYN-SENT 0 1 10\.77\.0\.2:\d+ 10\.77\.0\.1:7000 timer:\(on,(1sec|\d{3}ms),0\)")
    for line in shown:
        assert wanted.fullmatch(" ".join(line.split())), line
