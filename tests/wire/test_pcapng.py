from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import u16, u32, u64
from usernet.wire import pcapng
from usernet.wire.errors import WireError

ETH = pcapng.LINKTYPE_ETHERNET
comments = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)


def opening(*names: str) -> bytes:
    return pcapng.section_header() + b"".join(pcapng.interface_description(name, ETH) for name in names)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) & 3)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def foreign(order: str, *blocks: tuple[int, bytes]) -> bytes:
    """A file as another program in another byte order writes it."""
    section = block(order, pcapng.BLOCK_SECTION_HEADER, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    return section + b"".join(block(order, kind, body) for kind, body in blocks)


def damage(data: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        list(pcapng.read_blocks(data))
    return caught.value


# ---- written


def test_known_section_header() -> None:
    # Draft section 4.1: type, length, byte-order magic, version 1.0, open length, options
    assert pcapng.section_header("me") == bytes.fromhex(
        "0a0d0d0a 28000000 4d3c2b1a 0100 0000 ffffffffffffffff 0400 0200 6d650000 00000000 28000000"
    )


def test_known_interface_description() -> None:
    assert pcapng.interface_description("eth0", ETH, 96) == bytes.fromhex(
        "01000000 28000000 0100 0000 60000000 0200 0400 65746830 0900 0100 09000000 00000000 28000000"
    )


def test_known_packet() -> None:
    # 5 bytes of 64, at 2**32 + 2 ns
    assert pcapng.enhanced_packet(1, 0x1_0000_0002, [b"abc", b"de"], 64) == bytes.fromhex(
        "06000000 28000000 01000000 01000000 02000000 05000000 40000000 6162636465 000000 28000000"
    )


def test_known_packet_with_options() -> None:
    assert pcapng.enhanced_packet(0, 0, [], 0, "why", pcapng.EPB_OUTBOUND) == bytes.fromhex(
        "06000000 34000000 00000000 00000000 00000000 00000000 00000000"
        "0100 0300 77687900 0200 0400 02000000 00000000 34000000"
    )


@given(st.lists(st.tuples(st.integers(0, 1), u64, st.lists(st.binary(max_size=9)), comments, st.none() | u32)))
def test_round_trip(packets: list[tuple[int, int, list[bytes], str | None, int | None]]) -> None:
    data = opening("eth0", "eth1")
    for if_index, ts_ns, parts, comment, flags in packets:
        size = sum(len(part) for part in parts)
        data += pcapng.enhanced_packet(if_index, ts_ns, parts, size, comment, flags)
    assert len(data) % 4 == 0
    assert list(pcapng.read_blocks(data)) == [
        (if_index, ETH, ts_ns, b"".join(parts), comment, flags) for if_index, ts_ns, parts, comment, flags in packets
    ]


def test_interfaces_are_known_by_name() -> None:
    reader = pcapng.PcapReader(io.BytesIO(opening("eth0", "größe")))
    assert list(reader) == []
    assert [(i.name, i.linktype, i.snaplen) for i in reader.interfaces] == [("eth0", ETH, 0), ("größe", ETH, 0)]


def test_parts_may_be_views() -> None:
    data = opening("eth0") + pcapng.enhanced_packet(0, 1, [memoryview(b"abcd")[1:3], bytearray(b"x")], 3)
    assert next(pcapng.read_blocks(data)).data == b"bcx"


def test_a_comment_that_is_too_long_is_cut_between_characters() -> None:
    data = opening("eth0") + pcapng.enhanced_packet(0, 1, [], 0, "ü" * 40_000)
    assert next(pcapng.read_blocks(data)).comment == "ü" * 0x7FFF


# ---- classic files


@given(u16, st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), st.binary(max_size=40))))
def test_classic_round_trip(linktype: int, packets: list[tuple[int, bytes]]) -> None:
    data = pcapng.pcap_header(linktype)
    for ts_ns, packet in packets:
        data += pcapng.pcap_packet(ts_ns, packet, len(packet))
    assert list(pcapng.read_blocks(data)) == [(0, linktype, ts_ns, packet, None, None) for ts_ns, packet in packets]


def test_known_classic_file() -> None:
    assert pcapng.pcap_header(ETH, 96) == bytes.fromhex("4d3cb2a1 0200 0400 00000000 00000000 60000000 01000000")
    assert pcapng.pcap_packet(2_000_000_003, b"ab", 64) == bytes.fromhex("02000000 03000000 02000000 40000000 6162")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "ns"), [(0xA1B2C3D4, 7000), (0xA1B23C4D, 7)])
def test_classic_files_of_both_orders_and_clocks(order: str, magic: int, ns: int) -> None:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 0x1400_0065)
    data += struct.pack(order + "4I", 1, 7, 3, 3) + b"abc"
    assert list(pcapng.read_blocks(data)) == [(0, pcapng.LINKTYPE_RAW, 1_000_000_000 + ns, b"abc", None, None)]


def test_damaged_classic_files() -> None:
    good = pcapng.pcap_header(ETH) + pcapng.pcap_packet(0, b"abcd", 4)
    assert damage(good[:3]).offset == 3
    assert "magic number" in damage(b"GIF89a").what
    assert damage(good[:4] + b"\x03" + good[5:]).offset == 4
    assert damage(good[:30]).offset == 30
    assert damage(good[:-1]).offset == len(good) - 1
    long = pcapng.pcap_header(ETH) + struct.pack("<4I", 0, 0, pcapng.MAX_PACKET + 1, 0)
    assert damage(long).offset == 32
    assert "expected at most 262144" in damage(long).what


# ---- files of other programs


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_other_programs_write(order: str) -> None:
    def option(code: int, value: bytes) -> bytes:
        return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) & 3)

    plain = struct.pack(order + "HHI", ETH, 0, 4)
    binary = (
        struct.pack(order + "HHI", pcapng.LINKTYPE_RAW, 0, 0)
        + option(9, b"\x94")
        + option(14, struct.pack(order + "q", 5))
    )
    data = foreign(
        order,
        (pcapng.BLOCK_INTERFACE_DESCRIPTION, plain),
        (pcapng.BLOCK_INTERFACE_DESCRIPTION, binary),
        (0x0BAD, b"a block of a kind to come"),
        # microseconds by default
        (
            pcapng.BLOCK_ENHANCED_PACKET,
            struct.pack(order + "5I", 0, 0, 3, 2, 2) + b"ab\0\0" + option(1, b"why") + option(0, b""),
        ),
        # a clock of 2**-20 s, 5 s late: 1.5 s of it
        (pcapng.BLOCK_ENHANCED_PACKET, struct.pack(order + "5I", 1, 0, 3 << 19, 1, 1) + b"c\0\0\0"),
        # the obsolete packet block: interface and drop count in 16 bits each
        (pcapng.BLOCK_PACKET, struct.pack(order + "HHIIII", 0, 9, 0, 4, 3, 3) + b"def\0"),
        # a simple packet of 9 bytes, cut to the snaplen of interface 0
        (pcapng.BLOCK_SIMPLE_PACKET, struct.pack(order + "I", 9) + b"ghij"),
    )
    assert list(pcapng.read_blocks(data)) == [
        (0, ETH, 3000, b"ab", "why", None),
        (1, pcapng.LINKTYPE_RAW, 6_500_000_000, b"c", None, None),
        (0, ETH, 4000, b"def", None, None),
        (0, ETH, 0, b"ghij", None, None),
    ]


def test_a_second_section_starts_anew() -> None:
    packet = (pcapng.BLOCK_ENHANCED_PACKET, struct.pack(">5I", 0, 0, 1, 1, 1) + b"b\0\0\0")
    second = foreign(">", (pcapng.BLOCK_INTERFACE_DESCRIPTION, struct.pack(">HHI", pcapng.LINKTYPE_RAW, 0, 0)), packet)
    data = opening("eth0") + pcapng.enhanced_packet(0, 5, [b"a"], 1) + second
    assert list(pcapng.read_blocks(data)) == [
        (0, ETH, 5, b"a", None, None), (0, pcapng.LINKTYPE_RAW, 1000, b"b", None, None),
    ]  # fmt: skip
    orphan = opening("eth0") + foreign(">", packet)
    assert "interface 0, of 0" in damage(orphan).what


def test_a_pipe_may_give_less_than_asked() -> None:
    class Drip(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 3))

    data = opening("eth0") + pcapng.enhanced_packet(0, 5, [b"abcdefghij"], 10)
    assert [record.data for record in pcapng.PcapReader(Drip(data))] == [b"abcdefghij"]


def test_damaged_files_say_where() -> None:
    good = opening("eth0")
    at = len(good)
    packet = pcapng.enhanced_packet(0, 1, [b"abcd"], 4, "why")
    assert damage(good + packet[:-1]).offset == at + len(packet) - 1
    assert "file ends" in damage(good + packet[:10]).what
    # Both copies of a length, a length that no block has, one that is no multiple of 4
    assert damage(good + packet[:-4] + bytes(4)).offset == at + len(packet) - 4
    for length in (0, 8, 31, 33, pcapng.MAX_BLOCK + 4):
        assert damage(good + packet[:4] + struct.pack("<I", length) + packet[8:]).offset == at + 4
    # An interface that was not described, a packet longer than its block, an option longer than what is left
    assert damage(good + packet[:8] + b"\x01" + packet[9:]).offset == at + 8
    assert damage(good + packet[:20] + b"\xff" + packet[21:]).offset == at + 28
    assert damage(good + packet[:34] + b"\xff" + packet[35:]).offset == at + 34
    # Of the section header: the byte-order magic, the version
    assert damage(good[:8] + bytes(4) + good[12:]).offset == 8
    assert damage(good[:12] + b"\x02" + good[13:]).offset == 12


def test_what_came_before_the_damage_is_read() -> None:
    packet = pcapng.enhanced_packet(0, 1, [b"abcd"], 4)
    reader = iter(pcapng.PcapReader(io.BytesIO(opening("eth0") + packet + packet[:20])))
    assert next(reader).data == b"abcd"
    with pytest.raises(WireError, match="file ends"):
        next(reader)


@given(st.binary(max_size=80), st.integers(0, 120), st.sampled_from([b"", opening("eth0"), pcapng.pcap_header(ETH)]))
def test_any_bytes(noise: bytes, at: int, good: bytes) -> None:
    whole = good + pcapng.enhanced_packet(0, 1, [b"abcd"], 4, "why")
    for data in (good + noise, whole[:at] + noise + whole[at:], whole[:at] + noise + whole[at + len(noise) :]):
        offset = 0
        try:
            records = list(pcapng.read_blocks(data))
        except WireError as e:
            records = []
            offset = e.offset
        assert 0 <= offset <= len(data)
        assert all(isinstance(record.data, bytes) for record in records)
