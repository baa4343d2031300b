"""Capture files: written as pcapng, read as pcapng or as classic pcap of either byte order and resolution.

What `stack.capture`, the lab's recorder and `usernet tcpdump` write, and what the replaying driver reads. Source: the
IETF drafts draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap; Wireshark and libpcap read the result.

A pcapng file is a chain of blocks, each between two copies of its length; one section header, one description for each
interface, numbered from 0 in the order of the file, and one enhanced packet block for each packet:

    | type | length | body, padded to 4 … | length |

Written little-endian, with time stamps in nanoseconds, and with nothing in it of the machine that wrote it, so that two
equal runs leave equal files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from struct import Struct
from typing import BinaryIO, Final, NamedTuple, final

from usernet.wire.errors import WireError

LINKTYPE_NULL: Final = 0
LINKTYPE_ETHERNET: Final = 1
LINKTYPE_RAW: Final = 101  # IPv4 or IPv6, told apart by the version: a TUN device
LINKTYPE_LINUX_SLL: Final = 113
LINKTYPE_IPV4: Final = 228
LINKTYPE_IPV6: Final = 229
LINKTYPE_LINUX_SLL2: Final = 276

BLOCK_SECTION_HEADER: Final = 0x0A0D0D0A
BLOCK_INTERFACE_DESCRIPTION: Final = 1
BLOCK_PACKET: Final = 2  # obsolete, read only
BLOCK_SIMPLE_PACKET: Final = 3
BLOCK_ENHANCED_PACKET: Final = 6

OPT_ENDOFOPT: Final = 0
OPT_COMMENT: Final = 1
OPT_SHB_HARDWARE: Final = 2
OPT_SHB_OS: Final = 3
OPT_SHB_USERAPPL: Final = 4
OPT_IF_NAME: Final = 2
OPT_IF_TSRESOL: Final = 9
OPT_IF_TSOFFSET: Final = 14
OPT_EPB_FLAGS: Final = 2

# Values of OPT_EPB_FLAGS: the direction, as a capture on one interface saw it
EPB_INBOUND: Final = 1
EPB_OUTBOUND: Final = 2

MAX_BLOCK: Final = 16 * 1024 * 1024
"""A longer block is taken for a damaged file (Wireshark's bound), so that no file makes its reader hoard memory."""

MAX_PACKET: Final = 256 * 1024
"""A longer packet in a classic file is taken for damage (libpcap's MAXIMUM_SNAPLEN)."""

_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_PCAP_MAGIC_US: Final = 0xA1B2C3D4
_PCAP_MAGIC_NS: Final = 0xA1B23C4D

_OPTION: Final = Struct("<HH")
_U32: Final = Struct("<I")
_SHB: Final = Struct("<IIIHHq")
_IDB: Final = Struct("<IIHHI")
_EPB: Final = Struct("<7I")
_PCAP_HDR: Final = Struct("<IHHiIII")
_PCAP_REC: Final = Struct("<4I")

_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3]


def _text(code: int, text: str) -> bytes:
    value = text.encode(errors="replace")
    if len(value) > 0xFFFF:
        # An option counts its bytes in 16 bits; cut where a character ends.
        value = value[:0xFFFF].decode(errors="ignore").encode()
    return _option(code, value)


def section_header(application: str = "usernet", comment: str | None = None) -> bytes:
    """Build the block that opens a file.

    Args:
        application: the program's name, as Wireshark shows it.
        comment: on the capture as a whole.

    Returns:
        One section header block, its length left open.
    """
    options = b"" if comment is None else _text(OPT_COMMENT, comment)
    options += _text(OPT_SHB_USERAPPL, application) + b"\0\0\0\0"
    size = 28 + len(options)
    return _SHB.pack(BLOCK_SECTION_HEADER, size, _BYTE_ORDER_MAGIC, 1, 0, -1) + options + _U32.pack(size)


def interface_description(name: str, linktype: int, snaplen: int = 0) -> bytes:
    """Build the block that describes an interface; the first one of a file is interface 0.

    Args:
        name: the device's name.
        linktype: a LINKTYPE_ value.
        snaplen: the most bytes captured of a packet; 0 for all.

    Returns:
        One interface description block, with time stamps in nanoseconds.
    """
    options = _text(OPT_IF_NAME, name) + _option(OPT_IF_TSRESOL, b"\x09") + b"\0\0\0\0"
    size = 20 + len(options)
    return _IDB.pack(BLOCK_INTERFACE_DESCRIPTION, size, linktype, 0, snaplen) + options + _U32.pack(size)


def enhanced_packet(
    if_index: int,
    ts_ns: int,
    data: Sequence[bytes | bytearray | memoryview],
    orig_len: int,
    comment: str | None = None,
    flags: int | None = None,
) -> bytes:
    """Build the block of a packet.

    Args:
        if_index: the interface's number in the file.
        ts_ns: when, nanoseconds since 1970.
        data: the captured bytes in parts, which are joined here and nowhere else.
        orig_len: bytes of the packet before it was cut to the interface's snaplen.
        comment: a remark that Wireshark shows with the packet, such as why it was dropped.
        flags: the value of OPT_EPB_FLAGS: EPB_INBOUND, EPB_OUTBOUND, …

    Returns:
        One enhanced packet block.
    """
    size = 0
    for part in data:
        size += len(part)
    padding = _PADDING[size & 3]
    options = b""
    if comment is not None or flags is not None:
        if comment is not None:
            options = _text(OPT_COMMENT, comment)
        if flags is not None:
            options += _option(OPT_EPB_FLAGS, _U32.pack(flags))
        options += b"\0\0\0\0"
    length = 32 + size + len(padding) + len(options)
    head = _EPB.pack(BLOCK_ENHANCED_PACKET, length, if_index, ts_ns >> 32, ts_ns & 0xFFFFFFFF, size, orig_len)
    return b"".join((head, *data, padding, options, _U32.pack(length)))


def pcap_header(linktype: int, snaplen: int = MAX_PACKET) -> bytes:
    """Build the 24 bytes that open a classic pcap file with time stamps in nanoseconds."""
    return _PCAP_HDR.pack(_PCAP_MAGIC_NS, 2, 4, 0, 0, snaplen, linktype)


def pcap_packet(ts_ns: int, data: bytes, orig_len: int) -> bytes:
    """Build the record of a packet for the file that `pcap_header` opened: 16 bytes and `data`."""
    return _PCAP_REC.pack(ts_ns // 1_000_000_000, ts_ns % 1_000_000_000, len(data), orig_len) + data


@final
class PcapRecord(NamedTuple):
    """One packet of a capture file.

    Attributes:
        if_index: the interface's number in its section; 0 in a classic file.
        linktype: its LINKTYPE_.
        ts_ns: when, nanoseconds since 1970; 0 where the file does not say.
        data: the captured bytes.
        comment: the packet's, or None.
        flags: OPT_EPB_FLAGS, with the direction in the lowest two bits; None where the file does not say.
    """

    if_index: int
    linktype: int
    ts_ns: int
    data: bytes
    comment: str | None
    flags: int | None


@final
class PcapInterface(NamedTuple):
    """An interface of a capture file: `name` ("" if unknown), LINKTYPE_, bytes kept of a packet (0: all), clock.

    A time stamp is `ticks` x `scale` // `divisor` + `offset_ns` nanoseconds since 1970.
    """

    name: str
    linktype: int
    snaplen: int
    scale: int
    divisor: int
    offset_ns: int


@final
class PcapReader:
    """The packets of a capture file, one by one: `for record in PcapReader(file)`.

    Holds one block at a time, so the file may be of any size, or a pipe.

    Attributes:
        interfaces: those described so far in the current section, in order.

    Raises:
        WireError: from the constructor and from the iteration, with the place in the file and what was expected there.
            A file that ends in the middle of a record, as when its writer was killed, is told apart by nothing else:
            what came before the error is good.
    """

    __slots__ = ("_file", "_offset", "_order", "_pcapng", "interfaces")

    interfaces: list[PcapInterface]
    _file: BinaryIO
    _offset: int  # of the next byte to be read from `_file`
    _order: str  # "<" or ">"
    _pcapng: bool

    def __init__(self, file: BinaryIO) -> None:
        """Read the file's opening.

        Args:
            file: opened for reading in binary mode; not closed here.
        """
        self._file = file
        self._offset = 0
        self._order = "<"
        self.interfaces = []
        magic = self._take(4, "the magic number of a capture file")
        number = int.from_bytes(magic, "little")
        self._pcapng = number == BLOCK_SECTION_HEADER
        if self._pcapng:
            self._section()
            return
        if number not in (_PCAP_MAGIC_US, _PCAP_MAGIC_NS):
            number = int.from_bytes(magic, "big")
            self._order = ">"
            if number not in (_PCAP_MAGIC_US, _PCAP_MAGIC_NS):
                raise WireError(f"{magic.hex()} is no magic number of pcap or pcapng", 0)
        head = self._take(20, "the header of a pcap file")
        major, _, _, _, snaplen, linktype = Struct(self._order + "HHiIII").unpack(head)
        if major != 2:
            raise WireError(f"pcap of version {major}; expected 2", 4)
        # The upper bits of the link type tell of frame check sequences.
        scale = 1 if number == _PCAP_MAGIC_NS else 1000
        self.interfaces.append(PcapInterface("", linktype & 0xFFFF, snaplen, scale, 1, 0))

    def __iter__(self) -> Iterator[PcapRecord]:
        return self._blocks() if self._pcapng else self._records()

    def _take(self, size: int, what: str) -> bytes:
        """Read `size` bytes that must be there."""
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                raise WireError(f"file ends after {len(data)} of the {size} bytes of {what}", self._offset + len(data))
            data += more
        self._offset += size
        return data

    def _take_or_end(self, size: int, what: str) -> bytes | None:
        """Read `size` bytes, or None if the file ends here."""
        first = self._file.read(1)
        if not first:
            return None
        self._offset += 1
        return first + self._take(size - 1, what)

    def _records(self) -> Iterator[PcapRecord]:
        """Read the packets of a classic file."""
        unpack = Struct(self._order + "4I").unpack
        interface = self.interfaces[0]
        while (head := self._take_or_end(16, "a packet's header")) is not None:
            seconds, ticks, size, _ = unpack(head)
            if size > MAX_PACKET:
                raise WireError(f"packet of {size} bytes; expected at most {MAX_PACKET}", self._offset - 8)
            data = self._take(size, "a packet")
            yield PcapRecord(0, interface.linktype, seconds * 1_000_000_000 + ticks * interface.scale, data, None, None)

    def _section(self) -> None:
        """Read the rest of a section header, whose type has been read; what it says of byte order holds from here."""
        start = self._offset - 4
        head = self._take(8, "a section header")
        self._order = "<" if int.from_bytes(head[4:], "little") == _BYTE_ORDER_MAGIC else ">"
        if self._order == ">" and int.from_bytes(head[4:], "big") != _BYTE_ORDER_MAGIC:
            raise WireError(f"byte-order magic {head[4:].hex()}; expected 1a2b3c4d or 4d3c2b1a", start + 8)
        (length,) = Struct(self._order + "I").unpack_from(head, 0)
        body = self._body(start, length, 12, 28)
        major, _ = Struct(self._order + "HH").unpack_from(body, 0)
        if major != 1:
            raise WireError(f"pcapng of version {major}; expected 1", start + 12)
        self.interfaces = []

    def _body(self, start: int, length: int, taken: int, least: int) -> bytes:
        """Read the rest of the block at `start`, of which `taken` bytes have been read, but for its final length."""
        if length < least or length > MAX_BLOCK or length & 3:
            raise WireError(f"block of length {length}; expected a multiple of 4, {least} to {MAX_BLOCK}", start + 4)
        rest = self._take(length - taken, "a block")
        (again,) = Struct(self._order + "I").unpack_from(rest, len(rest) - 4)
        if again != length:
            raise WireError(f"block that ends with length {again}; expected {length}", start + length - 4)
        return rest[:-4]

    def _blocks(self) -> Iterator[PcapRecord]:
        """Read the packets of a pcapng file, passing over blocks of other kinds."""
        while (head := self._take_or_end(4, "a block's type")) is not None:
            (kind,) = Struct(self._order + "I").unpack(head)
            if kind == BLOCK_SECTION_HEADER:
                self._section()
                continue
            start = self._offset - 4
            (length,) = Struct(self._order + "I").unpack(self._take(4, "a block's length"))
            if kind == BLOCK_ENHANCED_PACKET:
                body = self._body(start, length, 8, 32)
                number, high, low, size, _ = Struct(self._order + "5I").unpack_from(body, 0)
                yield self._packet(start, body, 20, number, high << 32 | low, size)
            elif kind == BLOCK_PACKET:
                body = self._body(start, length, 8, 32)
                number, _, high, low, size, _ = Struct(self._order + "HH4I").unpack_from(body, 0)
                yield self._packet(start, body, 20, number, high << 32 | low, size)
            elif kind == BLOCK_SIMPLE_PACKET:
                body = self._body(start, length, 8, 16)
                (size,) = Struct(self._order + "I").unpack_from(body, 0)
                if self.interfaces and self.interfaces[0].snaplen:
                    size = min(size, self.interfaces[0].snaplen)
                yield self._packet(start, body, 4, 0, None, size)
            elif kind == BLOCK_INTERFACE_DESCRIPTION:
                self._interface(start, self._body(start, length, 8, 20))
            else:
                self._body(start, length, 8, 12)

    def _packet(self, start: int, body: bytes, at: int, number: int, ticks: int | None, size: int) -> PcapRecord:
        """Cut a packet of `size` bytes out of a block's body at `at`."""
        if number >= len(self.interfaces):
            raise WireError(f"packet of interface {number}, of {len(self.interfaces)} described", start + 8)
        if at + size > len(body):
            raise WireError(f"packet of {size} bytes in a block with room for {len(body) - at}", start + 8 + at)
        interface = self.interfaces[number]
        ts_ns = 0 if ticks is None else ticks * interface.scale // interface.divisor + interface.offset_ns
        comment: str | None = None
        flags: int | None = None
        if ticks is not None:
            for code, value in self._options(body, at + (size + 3 & ~3), start + 8):
                if code == OPT_COMMENT:
                    comment = value.decode(errors="replace")
                elif code == OPT_EPB_FLAGS and len(value) == 4:
                    (flags,) = Struct(self._order + "I").unpack(value)
        return PcapRecord(number, interface.linktype, ts_ns, body[at : at + size], comment, flags)

    def _interface(self, start: int, body: bytes) -> None:
        """Read an interface description."""
        linktype, _, snaplen = Struct(self._order + "HHI").unpack_from(body, 0)
        name = ""
        scale, divisor, offset_ns = 1000, 1, 0  # microseconds, where nothing is said
        for code, value in self._options(body, 8, start + 8):
            if code == OPT_IF_NAME:
                name = value.decode(errors="replace")
            elif code == OPT_IF_TSRESOL and value:
                # A negative power of 10, or of 2 if the high bit is set.
                scale = 1_000_000_000
                divisor = 1 << (value[0] & 127) if value[0] & 128 else 10 ** value[0]
            elif code == OPT_IF_TSOFFSET and len(value) == 8:
                offset_ns = Struct(self._order + "q").unpack(value)[0] * 1_000_000_000
        self.interfaces.append(PcapInterface(name, linktype, snaplen, scale, divisor, offset_ns))

    def _options(self, body: bytes, at: int, base: int) -> list[tuple[int, bytes]]:
        """Split the options at `at` of a body that starts at byte `base` of the file."""
        unpack = Struct(self._order + "HH").unpack_from
        options: list[tuple[int, bytes]] = []
        while at + 4 <= len(body):
            code, size = unpack(body, at)
            if code == OPT_ENDOFOPT:
                break
            at += 4
            if at + size > len(body):
                raise WireError(f"option {code} of {size} bytes where {len(body) - at} are left", base + at - 2)
            options.append((code, body[at : at + size]))
            at += size + 3 & ~3
        return options


def read_blocks(data: bytes) -> Iterator[PcapRecord]:
    """Read the packets of a capture file that is in memory.

    Args:
        data: the file, pcap or pcapng.

    Yields:
        (if_index, linktype, ts_ns, data, comment, flags) of each packet, in the order of the file.

    Raises:
        WireError: the file is damaged; its `offset` is the place.
    """
    yield from PcapReader(BytesIO(data))
