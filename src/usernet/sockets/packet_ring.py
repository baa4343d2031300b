"""PACKET_RX_RING: frames that a packet socket puts into memory which it shares with the program (Linux: af_packet.c,
tpacket_rcv and prb_*; Documentation/networking/packet_mmap.rst).

The memory is a row of blocks. With TPACKET_V1 and _V2 each is cut into frames of one size, and each frame changes hands
by itself; with _V3 frames lie close together in a block (`tp_next_offset` leads to the next), and the block changes
hands: when it is full, or when its time is over.

    V1, V2   | tpacket_hdr | sockaddr_ll | room | link header | payload …       tp_mac, tp_net: from the frame's start
    V3       | tpacket_block_desc | private | frame | frame | …                 a frame: the same, with tpacket3_hdr

A status word says whose a frame or block is: TP_STATUS_KERNEL (0) ours, with TP_STATUS_USER the program's, until that
writes 0 there. It is the only thing in that memory that is ever read here, so whatever else a program writes there
harms nobody but itself. Where the memory comes from is the business of the surface through which the socket is used
(`PacketSock.memory`): one that can't share any has no rings.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from mmap import PAGESIZE
from struct import Struct
from threading import Lock
from typing import TYPE_CHECKING, Final, final

from usernet.core.clock import NSEC_PER_MSEC, NSEC_PER_SEC
from usernet.core.errors import error
from usernet.core.timer import Timer
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import PacketAddr
from usernet.sock.optval import decode_int, pack_name

if TYPE_CHECKING:
    from usernet.sockets.packet import PacketSock

TPACKET_V1: Final = 0
TPACKET_V2: Final = 1
TPACKET_V3: Final = 2
TPACKET_ALIGNMENT: Final = 16

TP_STATUS_KERNEL: Final = 0
TP_STATUS_USER: Final = 1 << 0
TP_STATUS_LOSING: Final = 1 << 2
TP_STATUS_BLK_TMO: Final = 1 << 5
TP_STATUS_TS_SOFTWARE: Final = 1 << 29

ROOM_NONE: Final = 0
ROOM_LOW: Final = 1
ROOM_NORMAL: Final = 2

RETIRE_TOV: Final = 8
"""Milliseconds after which a block of V3 changes hands where the program asks for none (DEFAULT_PRB_RETIRE_TOV)."""

RING_MAX: Final = 1 << 28
"""Bytes of a ring, at most. libpcap asks for 2 MiB, and for less where it gets ENOMEM."""

INT_MAX: Final = 0x7FFFFFFF
USHRT_MAX: Final = 0xFFFF

SIZEOF_HDR: Final = (32, 32, 48)
"""Bytes of struct tpacket_hdr, tpacket2_hdr and tpacket3_hdr, by version."""
SOCKADDR_LL: Final = 20
BLOCK_DESC: Final = 48
"""Bytes of struct tpacket_block_desc."""
V3_ALIGNMENT: Final = 8
BLOCK_STATUS: Final = 8
"""Where in it the status is."""

Memory = Callable[[int], memoryview]
"""`memory(size)`: that many zeroed bytes which the program can map, writable. Raises OSError ENOMEM."""

_REQ: Final = Struct("=IIII")
_REQ3: Final = Struct("=IIIIIII")
_HDR: Final = Struct("=QIIHHII")
_HDR2: Final = Struct("=IIIHHII8x")
_HDR3: Final = Struct("=IIIIIIHH20x")
_DESC: Final = Struct("=II")
_DESC_REST: Final = Struct("=IIIQIIII")


def _align(size: int, to: int) -> int:
    return (size + to - 1) & -to


@final
class Request:
    """struct tpacket_req, and what of tpacket_req3 V3 alone has: retire_tov in ms, sizeof_priv in bytes."""

    __slots__ = ("block_nr", "block_size", "frame_nr", "frame_size", "retire_tov", "sizeof_priv")

    def __init__(self, version: int, value: bytes) -> None:
        """Raises OSError EINVAL for a value that is too short."""
        packed = _REQ3 if version == TPACKET_V3 else _REQ
        if len(value) < packed.size:
            raise error(errno.EINVAL, f"PACKET_RX_RING: expected {packed.size} bytes, not {len(value)}")
        self.block_size, self.block_nr, self.frame_size, self.frame_nr = _REQ.unpack_from(value)
        self.retire_tov, self.sizeof_priv = _REQ3.unpack_from(value)[4:6] if version == TPACKET_V3 else (0, 0)

    def check(self, version: int, reserve: int) -> None:
        """Raises OSError EINVAL for a ring that can't be (Linux: packet_set_ring), ENOMEM for one that is too large."""
        least = _align(SIZEOF_HDR[version], TPACKET_ALIGNMENT) + SOCKADDR_LL + reserve
        block, frame = self.block_size, self.frame_size
        if not 0 < block <= INT_MAX or block % PAGESIZE:
            raise error(errno.EINVAL, f"tp_block_size: expected a multiple of {PAGESIZE}, not {block}")
        if version == TPACKET_V3 and block < _first_packet(self.sizeof_priv) + least:
            raise error(errno.EINVAL, f"tp_block_size: expected room for a frame, not {block}")
        if frame < least or frame % TPACKET_ALIGNMENT:
            raise error(errno.EINVAL, f"tp_frame_size: expected a multiple of 16, {least} at least, not {frame}")
        if not block // frame or block // frame * self.block_nr != self.frame_nr:
            raise error(errno.EINVAL, f"tp_frame_nr: expected {block // frame * self.block_nr}, not {self.frame_nr}")
        if block * self.block_nr > RING_MAX:
            raise error(errno.ENOMEM, f"ring: expected at most {RING_MAX} bytes, not {block * self.block_nr}")


class Ring:
    """What the layouts share. size: bytes. Its methods are called with the stack's lock held."""

    def __init__(self, sk: PacketSock, request: Request, memory: memoryview) -> None:
        version = sk.tp_version
        self.version: int = version
        self.size: int = request.block_size * request.block_nr
        self.hdrlen: int = _align(SIZEOF_HDR[version], TPACKET_ALIGNMENT) + SOCKADDR_LL
        self.reserve: int = sk.tp_reserve
        self._sk = sk
        self._block_size: int = request.block_size
        self._memory = memory
        self._words = memory.cast("I")
        self._fence = Lock()
        self._fence.acquire()

    # -- what a layout has to say

    def readable(self) -> bool:
        """Whether the last that was given to the program is still its own (Linux: packet_previous_rx_frame)."""
        raise NotImplementedError

    def room(self) -> int:
        """How much room there is, ROOM_* (Linux: __packet_rcv_has_room)."""
        raise NotImplementedError

    def longest(self) -> int:
        """Bytes that a frame may have, with its header."""
        raise NotImplementedError

    def place(self, size: int) -> int:
        """Where a frame of `size` bytes, with its header, goes; -1 where there is no room after all."""
        raise NotImplementedError

    def fill(self, at: int, snaplen: int, length: int, mac: int, net: int, stamp: int, status: int) -> None:
        """Write the header of the frame at `at`, whose data is there, and give it to the program. stamp: ns."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the memory. The program's mapping of it stays."""
        self._words.release()
        self._memory.release()

    # -- for them

    def status(self, at: int) -> int:
        """The status word at `at`."""
        word: int = self._words[at >> 2]
        return word

    def give(self, at: int, status: int) -> None:
        """Write the status word at `at`, after all that was written before: a program on another processor may look at
        any moment. Unlocking, then locking keeps the order on every one (release, acquire)."""
        self._fence.release()
        self._fence.acquire()
        self._words[at >> 2] = status

    # -- receiving

    def receive(self, skb: SKBuff, name: PacketAddr, back: int, keep: int, status: int) -> None:
        """Put a packet in (Linux: tpacket_rcv). name: where it comes from. back: bytes before `data` that belong to it.
        keep: as many bytes as the filter leaves of it, -1 for all. status: TP_STATUS_* of what it is."""
        sk = self._sk
        length = skb.len + back
        snaplen = length if keep < 0 else min(length, keep)
        if back:
            net = _align(self.hdrlen + max(back, 16), TPACKET_ALIGNMENT) + self.reserve
        else:
            net = _align(self.hdrlen, TPACKET_ALIGNMENT) + 16 + self.reserve
        mac = net - back
        if self.room() == ROOM_NONE or net > USHRT_MAX:
            sk.tp_drops += 1
            return
        longest = self.longest()
        if mac + snaplen > longest:
            snaplen = longest - mac
            if snaplen < 0:
                snaplen = 0
                if self.version == TPACKET_V3:
                    mac = longest
        at = self.place(mac + snaplen)
        if at < 0:
            sk.tp_drops += 1
            sk.data_ready()
            return
        memory = self._memory
        to = at + mac
        for part in skb.slice(-back, snaplen - back):
            end = to + len(part)
            memory[to:end] = part
            to = end
        stamp = skb.tstamp
        if stamp:
            status |= TP_STATUS_TS_SOFTWARE
        else:
            stamp = sk.loop.now + sk.loop.clock.realtime_offset
        to = at + SIZEOF_HDR[self.version]
        memory[to : to + SOCKADDR_LL] = pack_name(name)
        sk.tp_packets += 1
        self.fill(at, snaplen, length, mac, net, stamp, status)


@final
class FrameRing(Ring):
    """TPACKET_V1 and _V2: frames of one size."""

    def __init__(self, sk: PacketSock, request: Request, memory: memoryview) -> None:
        super().__init__(sk, request, memory)
        self._frame_size: int = request.frame_size
        self._frames: int = request.frame_nr
        self._per_block: int = request.block_size // request.frame_size
        self._head: int = 0

    def _at(self, index: int) -> int:
        block, frame = divmod(index % self._frames, self._per_block)
        return block * self._block_size + frame * self._frame_size

    def readable(self) -> bool:
        return self.status(self._at(self._head - 1)) != TP_STATUS_KERNEL

    def room(self) -> int:
        if self.status(self._at(self._head + (self._frames >> 2))) == TP_STATUS_KERNEL:
            return ROOM_NORMAL
        return ROOM_LOW if self.status(self._at(self._head)) == TP_STATUS_KERNEL else ROOM_NONE

    def longest(self) -> int:
        return self._frame_size

    def place(self, size: int) -> int:
        at = self._at(self._head)
        if self.status(at) != TP_STATUS_KERNEL:
            return -1
        self._head = (self._head + 1) % self._frames
        return at

    def fill(self, at: int, snaplen: int, length: int, mac: int, net: int, stamp: int, status: int) -> None:
        sk = self._sk
        if sk.tp_drops:
            status |= TP_STATUS_LOSING
        seconds, nanoseconds = divmod(stamp, NSEC_PER_SEC)
        if self.version == TPACKET_V1:
            _HDR.pack_into(self._memory, at, 0, length, snaplen, mac, net, seconds & 0xFFFFFFFF, nanoseconds // 1000)
        else:
            _HDR2.pack_into(self._memory, at, 0, length, snaplen, mac, net, seconds & 0xFFFFFFFF, nanoseconds)
        self.give(at, status)
        sk.data_ready()


@final
class BlockRing(Ring):
    """TPACKET_V3. freezes: how often the program was behind by the whole ring (tp_freeze_q_cnt).

    The block that is being filled is `_active`. Behind a block that was given away the next one is opened, unless the
    program has still that: then the queue is frozen.
    """

    def __init__(self, sk: PacketSock, request: Request, memory: memoryview) -> None:
        super().__init__(sk, request, memory)
        self.freezes: int = 0
        self._blocks: int = request.block_nr
        self._first: int = _first_packet(request.sizeof_priv)
        self._interval: int = (request.retire_tov or RETIRE_TOV) * NSEC_PER_MSEC
        self._timer = Timer(sk.loop.timers, self._retire)
        self._active: int = 0
        self._frozen: bool = False
        self._serial: int = 0
        self._open()

    def _open(self) -> None:
        """Linux: prb_open_block."""
        self._serial += 1
        self._frozen = False
        self._count: int = 0
        self._start: int = self._active * self._block_size
        self._next: int = self._start + self._first
        self._previous: int = self._next
        self._stamp: int = 0
        self._opened: int = self._sk.loop.now

    def _close(self, status: int) -> None:
        """Give the block to the program (Linux: prb_close_block)."""
        sk = self._sk
        memory = self._memory
        start = self._start
        if sk.tp_drops:
            status |= TP_STATUS_LOSING
        # Nothing is behind the last one.
        memory[self._previous : self._previous + 4] = bytes(4)
        _DESC.pack_into(memory, start, TPACKET_V3, BLOCK_DESC)
        first = divmod(self._opened + sk.loop.clock.realtime_offset, NSEC_PER_SEC)
        last = divmod(self._stamp, NSEC_PER_SEC) if self._count else first
        _DESC_REST.pack_into(
            memory, start + BLOCK_STATUS + 4, self._count, self._first, self._next - start, self._serial,
            first[0] & 0xFFFFFFFF, first[1], last[0] & 0xFFFFFFFF, last[1],
        )  # fmt: skip
        self._timer.cancel()
        self._active = (self._active + 1) % self._blocks
        self.give(start + BLOCK_STATUS, status | TP_STATUS_USER)
        sk.data_ready()

    def _dispatch(self) -> bool:
        """Begin with the next block. False where the program has still that (Linux: prb_dispatch_next_block)."""
        if self._has(self._active):
            self._frozen = True
            self.freezes += 1
            return False
        self._open()
        return True

    def _retire(self, now: int) -> None:
        """The time of a block is over that is not full."""
        self._close(TP_STATUS_BLK_TMO)
        self._dispatch()

    def _has(self, block: int) -> bool:
        """Whether a block is the program's."""
        return self.status(block % self._blocks * self._block_size + BLOCK_STATUS) != TP_STATUS_KERNEL

    def readable(self) -> bool:
        return self._has(self._active - 1)

    def room(self) -> int:
        if not self._has(self._active + (self._blocks >> 2)):
            return ROOM_NORMAL
        return ROOM_NONE if self._has(self._active) else ROOM_LOW

    def longest(self) -> int:
        return self._block_size - self._first

    def place(self, size: int) -> int:
        if self._frozen:
            if self._has(self._active):
                return -1
            self._open()
        total = _align(size, V3_ALIGNMENT)
        if self._next + total >= self._start + self._block_size:
            self._close(0)
            if not self._dispatch():
                return -1
        at = self._previous = self._next
        self._next += total
        if not self._count:
            # Linux looks every so often from the opening on, and passes on what is there then.
            now = self._sk.loop.now
            self._timer.mod(now + self._interval - (now - self._opened) % self._interval)
        self._count += 1
        return at

    def fill(self, at: int, snaplen: int, length: int, mac: int, net: int, stamp: int, status: int) -> None:
        seconds, nanoseconds = divmod(stamp, NSEC_PER_SEC)
        self._stamp = stamp
        _HDR3.pack_into(
            self._memory, at, self._next - at, seconds & 0xFFFFFFFF, nanoseconds, snaplen, length, status, mac, net
        )

    def close(self) -> None:
        self._timer.delete()
        super().close()


def _first_packet(sizeof_priv: int) -> int:
    """Where in a block the first frame is (Linux: BLK_PLUS_PRIV)."""
    return BLOCK_DESC + _align(sizeof_priv, V3_ALIGNMENT)


# -- the options


def set_ring(sk: PacketSock, value: bytes) -> None:
    """PACKET_RX_RING (Linux: packet_set_ring). No blocks: take the ring away, also one that is mapped.

    Raises OSError: EINVAL, EBUSY (there is a ring), ENOMEM, ENOPROTOOPT (nobody here could map one).
    """
    memory = sk.memory
    if memory is None:
        raise error(errno.ENOPROTOOPT, "PACKET_RX_RING: there is nobody here who could map a ring")
    request = Request(sk.tp_version, value)
    ring = sk.ring
    if not request.block_nr:
        if request.frame_nr:
            raise error(errno.EINVAL, f"tp_frame_nr: expected 0 for no blocks, not {request.frame_nr}")
        if ring is not None:
            sk.ring = None
            ring.close()
        return
    if ring is not None:
        raise error(errno.EBUSY)
    request.check(sk.tp_version, sk.tp_reserve)
    view = memory(request.block_size * request.block_nr)
    sk.ring = (BlockRing if sk.tp_version == TPACKET_V3 else FrameRing)(sk, request, view)
    for skb in sk.receive_queue.take():
        skb.consume()


def header_length(value: bytes) -> int:
    """PACKET_HDRLEN: bytes of the header of the version that the option's value says. Raises OSError EINVAL."""
    if len(value) < 4:
        raise error(errno.EINVAL, f"PACKET_HDRLEN: expected an int (4 bytes), not {len(value)} bytes")
    version = decode_int(value)
    if not TPACKET_V1 <= version <= TPACKET_V3:
        raise error(errno.EINVAL, f"PACKET_HDRLEN: there is no version {version}")
    return SIZEOF_HDR[version]
