"""A stack with one NIC whose wire is in the fuzzer's hand: frames go in, what is answered is collected and checked.

The stack is on a clock of its own and always the same for the same input. What a timer or a poll lets out, which the
stack itself only reports, is raised at the end of the input, and so is an answer that is no sound packet.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, final

import usernet
from usernet.core.clock import ManualClock
from usernet.drivers.vnet_hdr import receive_header
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO, Driver
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import checksum, ethernet, ipv4

OUR_MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
US = ipv4.parse_addr("10.0.0.1")
PEER = ipv4.parse_addr("10.0.0.2")
BROADCAST = b"\xff" * 4
GROUP = ipv4.parse_addr("239.1.2.3")
SECOND = 1_000_000_000
REALTIME = 1_700_000_000 * SECOND

TCP_PORT, UDP_PORT = 80, 53
_CHECK_OFFSET = {1: 2, 2: 2, 6: 16, 17: 6}


@final
class Wire(Driver):
    """A NIC without a cable. offload: frames come with a virtio-net header, and leave unfinished."""

    def __init__(self, offload: bool) -> None:
        self.hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO if offload else 0
        self.mac = OUR_MAC
        self.offload = offload
        self.incoming: deque[bytes] = deque()
        self.sent: list[bytes] = []
        self.dev: NetDevice | None = None

    def open(self, dev: NetDevice) -> None:
        self.dev = dev

    def stop(self) -> None:
        self.dev = None

    def xmit(self, skb: SKBuff) -> bool:
        self.sent.append(skb.tobytes())
        skb.consume()
        return True

    def poll(self, budget: int) -> int:
        dev = self.dev
        assert dev is not None
        done = 0
        while self.incoming and done < budget:
            done += 1
            skb = SKBuff(self.incoming.popleft(), 10 if self.offload else 0)
            # As drivers/tuntap.py does.
            if self.offload and (skb.len < 0 or not receive_header(skb, dev.hard_header_len)):
                skb.drop(DropReason.BAD_GSO, dev.net.drops)
                continue
            dev.napi.receive(skb)
        return done


@final
class World:
    """10.0.0.1 on eth0, in the group 239.1.2.3, with a listener at port 80 and datagram, raw, packet sockets.

    checked: whether what the stack sends must be sound; not so where raw sockets send what they are given.
    """

    def __init__(self, offload: bool = False, sockets: bool = True, checked: bool = True) -> None:
        self.checked = checked
        self.clock = ManualClock(0, REALTIME)
        self.stack = usernet.Stack("fuzzed", clock=self.clock, seed=7)
        self.wire = Wire(offload)
        self.problems: list[BaseException] = []
        self.sockets: list[Any] = []
        self._hook = threading.excepthook
        stack = self.stack
        self.dev = stack.add_device(self.wire, "eth0", "10.0.0.1/24")
        stack.add_neighbour("eth0", "10.0.0.2", ethernet.format_mac(PEER_MAC))
        stack.add_route("default", via="10.0.0.2")
        self.listener = self.socket(1)
        self.listener.bind(("", TCP_PORT))
        self.listener.listen(4)
        if sockets:
            self._open_sockets()

    def _open_sockets(self) -> None:
        udp = self.socket(2)
        udp.setsockopt(0, 11, 1)  # IP_RECVERR
        udp.setsockopt(0, 6, 1)  # IP_RECVOPTS
        udp.setsockopt(0, 35, GROUP + bytes(4))  # IP_ADD_MEMBERSHIP
        udp.bind(("", UDP_PORT))
        connected = self.socket(2)
        connected.setsockopt(17, 104, 1)  # UDP_GRO
        connected.bind(("10.0.0.1", 5000))
        connected.connect(("10.0.0.2", 5000))
        self.socket(3, 1)
        self.socket(3, 17)
        for kind in (2, 3):
            packet = self.stack.socket(17, kind, 0x0300)
            packet.setblocking(False)
            self.sockets.append(packet)

    def socket(self, kind: int, protocol: int = 0) -> Any:
        sock = self.stack.socket(2, kind, protocol)
        sock.setblocking(False)
        self.sockets.append(sock)
        return sock

    def __enter__(self) -> World:
        threading.excepthook = self._problem
        return self

    def _problem(self, args: Any) -> None:
        self.problems.append(args.exc_value)

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            if value is None:
                self._drain()
        finally:
            self.stack.close()
            threading.excepthook = self._hook
        if value is None:
            for problem in self.problems:
                raise problem
            for frame in self.wire.sent if self.checked else ():
                check_answer(frame, self.wire.offload)

    def _drain(self) -> None:
        """Read what has come, close, and let all timers that are left run out."""
        for sock in self.sockets:
            for flags in (0, 0x2000):  # the data, and MSG_ERRQUEUE
                for _ in range(20):
                    try:
                        sock.recvmsg(70000, 1024, flags)
                    except OSError:
                        break
        for sock in self.sockets:
            sock.close()
        self.pass_time(2000 * SECOND, 200)

    def receive(self, frame: bytes) -> None:
        """The NIC receives a frame."""
        self.wire.incoming.append(frame)
        self.stack.loop.softirq.schedule(self.dev.napi)
        self.stack.poll(self.clock.now())

    def pass_time(self, time: int, steps: int = 50) -> None:
        """Let `time` ns pass, and what is due happen; at most `steps` events."""
        until = self.clock.now() + time
        deadline = self.stack.poll(self.clock.now())
        while deadline is not None and deadline <= until and steps:
            deadline = self.stack.poll(max(deadline, self.clock.now()))
            steps -= 1
        if steps:
            self.stack.poll(until)


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """A series of inputs in one: each a byte that says what to do, two with a length, and as many bytes."""
    at = 0
    while at + 3 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        yield data[at], data[at + 3 : at + 3 + size]
        at += 3 + size


def series(*parts: tuple[int, bytes]) -> bytes:
    """What `records` takes apart."""
    return b"".join(bytes((control,)) + len(part).to_bytes(2, "big") + part for control, part in parts)


def ip_frame(protocol: int, payload: bytes, src: bytes = PEER, dst: bytes = US, options: bytes = b"") -> bytes:
    """A frame from the peer to the stack, with an IPv4 header around `payload`; `repair` fills in its checksums."""
    size = 20 + len(options) + len(payload)
    header = bytes((0x40 | 5 + len(options) // 4, 0)) + (size & 0xFFFF).to_bytes(2, "big") + bytes(4)
    header += bytes((64, protocol, 0, 0)) + src + dst + options
    mac = ethernet.multicast_ip_to_mac(dst) if dst[0] >> 4 == 14 else OUR_MAC
    return ethernet.build(mac, PEER_MAC, 0x0800) + header + payload


def _with_sum(data: bytes, at: int, start: int, end: int, seed: int = 0) -> bytes:
    data = data[:at] + b"\0\0" + data[at + 2 :]
    check = checksum.csum_fold(checksum.csum(data, start, end, seed))
    return data[:at] + check.to_bytes(2, "big") + data[at + 2 :]


def repair(frame: bytes) -> bytes:
    """The frame with its checksums right, so that mutations reach what is behind them."""
    if len(frame) < 34 or frame[12:14] != b"\x08\0":
        return frame
    hlen = (frame[14] & 15) * 4
    total = int.from_bytes(frame[16:18], "big")
    if hlen < 20 or 14 + hlen > len(frame):
        return frame
    frame = _with_sum(frame, 24, 14, 14 + hlen)
    protocol, start, end = frame[23], 14 + hlen, min(14 + total, len(frame))
    offset = _CHECK_OFFSET.get(protocol)
    if offset is None or int.from_bytes(frame[20:22], "big") & 0x3FFF or start + offset + 2 > end:
        return frame
    seed = checksum.pseudo_sum(frame[26:30], frame[30:34], protocol, end - start) if protocol in (6, 17) else 0
    return _with_sum(frame, start + offset, start, end, seed)


def check_answer(frame: bytes, offload: bool = False) -> None:
    """What the stack sent is a sound packet, and no answer to all the world."""
    assert len(frame) >= 14, frame.hex()
    assert frame[6:12] == OUR_MAC or frame[12:14] != b"\x08\0", frame.hex()
    if frame[12:14] != b"\x08\0":
        return
    hlen = (frame[14] & 15) * 4
    assert frame[14] >> 4 == 4 and hlen >= 20, frame.hex()
    assert int.from_bytes(frame[16:18], "big") == len(frame) - 14, frame.hex()
    assert ipv4.header_csum_ok(frame, 14, hlen), frame.hex()
    protocol, start, end = frame[23], 14 + hlen, len(frame)
    if protocol == 1 and frame[start] in (3, 4, 5, 11, 12):
        # RFC 1122 section 3.2.2: no error about an error, nor about what was sent to many.
        quoted = start + 8
        assert not frame[0] & 1 and frame[30] >> 4 != 14 and frame[30:34] != BROADCAST, frame.hex()
        assert not (frame[quoted + 9] == 1 and frame[quoted + (frame[quoted] & 15) * 4] in (3, 4, 5, 11, 12))
    if offload or int.from_bytes(frame[20:22], "big") & 0x3FFF or protocol not in _CHECK_OFFSET:
        return
    if protocol == 17 and frame[start + 6 : start + 8] == b"\0\0":
        return
    seed = checksum.pseudo_sum(frame[26:30], frame[30:34], protocol, end - start) if protocol in (6, 17) else 0
    assert checksum.csum_fold(checksum.csum(frame, start, end, seed)) in (0, 0xFFFF), frame.hex()
