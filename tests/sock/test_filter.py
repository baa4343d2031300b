"""Classic BPF: what the checker takes, and what the interpreter makes of it."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.skbuff.skbuff import SKBuff
from usernet.sock import filter as bpf
from usernet.sock.filter import Program

Insn = tuple[int, int, int, int]
LD_W, LD_H, LD_B = 0x20, 0x28, 0x30
LDX_MSH = 0xB1
JEQ, JGT, JGE, JSET, JA = 0x15, 0x25, 0x35, 0x45, 0x05
RET, RET_A = 0x06, 0x16
ST, STX, LD_MEM, LDX_MEM, LD_IMM, LDX_IMM = 0x02, 0x03, 0x60, 0x61, 0x00, 0x01
TAX, TXA = 0x07, 0x87
LD_LEN, LDX_LEN = 0x80, 0x81


def assemble(*insns: tuple[int, ...]) -> bytes:
    return b"".join(struct.pack("=HBBI", code, *(rest if len(rest) == 3 else (0, 0, *rest))) for code, *rest in insns)


def program(*insns: tuple[int, ...]) -> Program:
    return Program(assemble(*insns))


def result(packet: bytes, *insns: tuple[int, ...]) -> int:
    return program(*insns).run(SKBuff(packet))


@pytest.mark.parametrize(
    "insns",
    [
        [],
        [(LD_W, 0)],  # no return at the end
        [(0x1234, 0), (RET, 1)],  # no such code
        [(JA, 1), (RET, 1)],  # out of the program
        [(JA, 0xFFFFFFFF), (RET, 1)],
        [(JEQ, 0, 1, 5), (RET, 1)],
        [(0x34, 0), (RET_A, 0)],  # A / 0
        [(0x94, 0), (RET_A, 0)],  # A % 0
        [(0x64, 32), (RET_A, 0)],  # A << 32
        [(ST, 16), (RET, 0)],
        [(LD_MEM, 16), (RET_A, 0)],
        [(LD_MEM, 0), (RET_A, 0)],  # never written
        [(JEQ, 0, 1, 5), (ST, 0), (LD_MEM, 0), (RET_A, 0)],  # written on one path only
        [(LD_W, bpf.SKF_AD_OFF + 2), (RET_A, 0)],
        [(LD_W, bpf.SKF_AD_OFF + 64), (RET_A, 0)],
        [(RET, 1)] * 4097,
    ],
)
def test_refused(insns: list[tuple[int, ...]]) -> None:
    with pytest.raises(OSError) as caught:
        program(*insns)
    assert caught.value.errno == errno.EINVAL


def test_a_length_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(OSError):
        Program(assemble((RET, 1)) + b"\0")


def test_the_longest_program() -> None:
    assert result(b"", *[(LD_IMM, 7)] * 4095, (RET_A, 0)) == 7


@pytest.mark.parametrize(
    ("load", "value"),
    [((LD_W, 1), 0x02030405), ((LD_H, 1), 0x0203), ((LD_B, 1), 0x02), ((LD_LEN, 0), 6)],
)
def test_loads(load: tuple[int, int], value: int) -> None:
    assert result(bytes(range(1, 7)), load, (RET_A, 0)) == value


def test_a_load_out_of_bounds_drops_the_packet() -> None:
    for load in ((LD_W, 3), (LD_H, 5), (LD_B, 6), (LD_W, 0x80000000), (0x50, 0xFFFFFFF0)):
        assert result(bytes(6), load, (RET, 9)) == 0


def test_indexed_loads_and_the_header_length_instruction() -> None:
    packet = b"\x46" + bytes(23) + b"\xab\xcd"
    assert result(packet, (LDX_MSH, 0), (0x48, 0), (RET_A, 0)) == 0xABCD
    assert result(packet, (LDX_MSH, 99), (RET, 1)) == 0


@pytest.mark.parametrize(
    ("operation", "a", "k", "value"),
    [
        (0x04, 0xFFFFFFFF, 2, 1),
        (0x14, 1, 2, 0xFFFFFFFF),
        (0x24, 0x80000001, 2, 2),
        (0x34, 7, 2, 3),
        (0x94, 7, 4, 3),
        (0x44, 5, 2, 7),
        (0x54, 7, 5, 5),
        (0xA4, 7, 5, 2),
        (0x64, 0x80000001, 1, 2),
        (0x74, 0x80000000, 31, 1),
        (0x84, 1, 0, 0xFFFFFFFF),
    ],
)
def test_arithmetic(operation: int, a: int, k: int, value: int) -> None:
    assert result(b"", (LD_IMM, a), (operation, k), (RET_A, 0)) == value
    # The same with X.
    assert result(b"", (LDX_IMM, k), (LD_IMM, a), (operation | (8 if operation != 0x84 else 0), 0), (RET_A, 0)) == value


def test_division_by_an_x_of_zero_drops_the_packet() -> None:
    assert result(b"", (LDX_IMM, 0), (LD_IMM, 5), (0x3C, 0), (RET, 1)) == 0
    assert result(b"", (LDX_IMM, 0), (LD_IMM, 5), (0x9C, 0), (RET, 1)) == 0


@pytest.mark.parametrize(
    ("jump", "a", "k", "taken"),
    [
        (JEQ, 5, 5, True), (JEQ, 5, 6, False), (JGT, 6, 5, True), (JGT, 5, 5, False), (JGE, 5, 5, True),
        (JGE, 4, 5, False), (JSET, 6, 2, True), (JSET, 4, 2, False),
    ],
)  # fmt: skip
def test_jumps(jump: int, a: int, k: int, taken: bool) -> None:
    assert result(b"", (LD_IMM, a), (jump, 0, 1, k), (RET, 1), (RET, 2)) == (1 if taken else 2)
    assert result(b"", (LDX_IMM, k), (LD_IMM, a), (jump | 8, 0, 1, 0), (RET, 1), (RET, 2)) == (1 if taken else 2)


def test_memory_and_registers() -> None:
    assert result(b"", (LD_IMM, 3), (ST, 15), (LD_IMM, 0), (LDX_MEM, 15), (TXA, 0), (RET_A, 0)) == 3
    assert result(b"", (LDX_IMM, 4), (STX, 0), (LD_MEM, 0), (TAX, 0), (TXA, 0), (RET_A, 0)) == 4
    assert result(b"abc", (LDX_LEN, 0), (JA, 0), (TXA, 0), (RET_A, 0)) == 3


def test_what_is_known_of_the_packet() -> None:
    skb = SKBuff(b"\x11\x22LINKNETdata")
    skb.mac_header, skb.network_header, skb.data = 2, 6, 9
    skb.len -= 9
    skb.protocol, skb.pkt_type, skb.mark = 0x0800, 4, 77
    skb.transport_header = 10
    for offset, value in ((0, 0x0800), (4, 4), (8, 0), (20, 77), (28, 0), (52, 1), (12, 0)):
        assert program((LD_W, bpf.SKF_AD_OFF + offset), (RET_A, 0)).run(skb) == value
    assert program((LDX_IMM, 6), (LD_IMM, 5), (LD_W, bpf.SKF_AD_OFF + 40), (RET_A, 0)).run(skb) == 3
    assert program((LD_B, bpf.SKF_NET_OFF), (RET_A, 0)).run(skb) == ord("N")
    assert program((LD_B, bpf.SKF_LL_OFF), (RET_A, 0)).run(skb) == ord("L")
    skb.mac_header = skb.network_header = -1
    assert program((LD_B, bpf.SKF_NET_OFF), (RET, 1)).run(skb) == 0
    assert program((LD_B, bpf.SKF_LL_OFF), (RET, 1)).run(skb) == 0


def test_fragments_are_seen() -> None:
    skb = SKBuff(b"head")
    skb.add_frag(b"-and-tail")
    assert program((LD_B, 5), (RET_A, 0)).run(skb) == ord("a")
    assert program((LD_LEN, 0), (RET_A, 0)).run(skb) == 13
    assert skb.tobytes() == b"head-and-tail"


def test_udp_port_53_as_tcpdump_writes_it() -> None:
    dns = program(
        (LD_H, 12), (JEQ, 0, 6, 0x0800), (LD_B, 23), (JEQ, 0, 4, 17), (LDX_MSH, 14), (0x48, 16), (JEQ, 0, 1, 53),
        (RET, 0x40000), (RET, 0),
    )  # fmt: skip
    frame = bytes(12) + b"\x08\0\x45" + bytes(7) + b"\x40\x11" + bytes(10)
    assert dns.run(SKBuff(frame + b"\x30\x39\0\x35\0\x08\0\0")) == 0x40000
    assert dns.run(SKBuff(frame + b"\x30\x39\0\x36\0\x08\0\0")) == 0
    assert dns.run(SKBuff(frame)) == 0


CODES = sorted(bpf._VALID)
INSN = st.tuples(
    st.sampled_from(CODES),
    st.integers(0, 5),
    st.integers(0, 5),
    st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)),
)


@given(st.lists(INSN, min_size=1, max_size=20), st.binary(max_size=40))
def test_every_program_that_is_taken_ends(insns: list[Insn], packet: bytes) -> None:
    try:
        taken = program(*insns, (RET_A, 0, 0, 0))
    except OSError:
        return
    assert 0 <= taken.run(SKBuff(packet)) <= 0xFFFFFFFF


@given(st.binary(max_size=100))
def test_any_bytes_are_survived(code: bytes) -> None:
    with suppress(OSError):
        Program(code).run(SKBuff(b"packet"))
