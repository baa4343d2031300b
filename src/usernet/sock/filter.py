"""Classic BPF: the filters of SO_ATTACH_FILTER, packet sockets and reuseport groups (Linux: net/core/filter.c).

A program is a row of `struct sock_filter` (code, jt, jf, k) for a machine with an accumulator A, an index register X
and 16 words of memory. It is checked once, when attached (bpf_check_classic): every jump goes forward and stays inside,
every path ends in a return, memory is written before it is read. So it ends, and the interpreter checks nothing but the
packet's bounds. What it returns is how many bytes of the packet to keep, 0 to drop it.

McCanne, Jacobson: The BSD Packet Filter, 1993; Documentation/networking/filter.rst.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.skbuff.skbuff import SKBuff

BPF_MAXINSNS: Final = 4096
BPF_MEMWORDS: Final = 16
BPF_INSN_SIZE: Final = 8

# Classes, sizes, modes, operations, sources (include/uapi/linux/bpf_common.h).
BPF_LD: Final = 0x00
BPF_LDX: Final = 0x01
BPF_ST: Final = 0x02
BPF_STX: Final = 0x03
BPF_ALU: Final = 0x04
BPF_JMP: Final = 0x05
BPF_RET: Final = 0x06
BPF_MISC: Final = 0x07
BPF_W: Final = 0x00
BPF_H: Final = 0x08
BPF_B: Final = 0x10
BPF_IMM: Final = 0x00
BPF_ABS: Final = 0x20
BPF_IND: Final = 0x40
BPF_MEM: Final = 0x60
BPF_LEN: Final = 0x80
BPF_MSH: Final = 0xA0
BPF_ADD: Final = 0x00
BPF_SUB: Final = 0x10
BPF_MUL: Final = 0x20
BPF_DIV: Final = 0x30
BPF_OR: Final = 0x40
BPF_AND: Final = 0x50
BPF_LSH: Final = 0x60
BPF_RSH: Final = 0x70
BPF_NEG: Final = 0x80
BPF_MOD: Final = 0x90
BPF_XOR: Final = 0xA0
BPF_JA: Final = 0x00
BPF_JEQ: Final = 0x10
BPF_JGT: Final = 0x20
BPF_JGE: Final = 0x30
BPF_JSET: Final = 0x40
BPF_K: Final = 0x00
BPF_X: Final = 0x08
BPF_A: Final = 0x10
BPF_TAX: Final = 0x00
BPF_TXA: Final = 0x80

# Loads from these offsets read what is known of the packet, or its headers (include/uapi/linux/filter.h).
SKF_AD_OFF: Final = 0xFFFFF000
SKF_NET_OFF: Final = 0xFFF00000
SKF_LL_OFF: Final = 0xFFE00000
SKF_AD_PROTOCOL: Final = 0
SKF_AD_PKTTYPE: Final = 4
SKF_AD_IFINDEX: Final = 8
SKF_AD_NLATTR: Final = 12
SKF_AD_NLATTR_NEST: Final = 16
SKF_AD_MARK: Final = 20
SKF_AD_HATYPE: Final = 28
SKF_AD_ALU_XOR_X: Final = 40
SKF_AD_PAY_OFFSET: Final = 52
SKF_AD_RANDOM: Final = 56
SKF_AD_MAX: Final = 64

_INSN: Final = Struct("=HBBI")
_MASK: Final = 0xFFFFFFFF

_ALU: Final = (BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR)
_VALID: Final = frozenset(
    [
        *(BPF_ALU | op | source for op in _ALU for source in (BPF_K, BPF_X)),
        BPF_ALU | BPF_NEG,
        *(BPF_LD | size | mode for size in (BPF_W, BPF_H, BPF_B) for mode in (BPF_ABS, BPF_IND)),
        BPF_LD | BPF_W | BPF_LEN,
        BPF_LD | BPF_IMM,
        BPF_LD | BPF_MEM,
        BPF_LDX | BPF_W | BPF_LEN,
        BPF_LDX | BPF_B | BPF_MSH,
        BPF_LDX | BPF_IMM,
        BPF_LDX | BPF_MEM,
        BPF_ST,
        BPF_STX,
        BPF_JMP | BPF_JA,
        *(BPF_JMP | op | source for op in (BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET) for source in (BPF_K, BPF_X)),
        BPF_RET | BPF_K,
        BPF_RET | BPF_A,
        BPF_MISC | BPF_TAX,
        BPF_MISC | BPF_TXA,
    ]
)

Insn = tuple[int, int, int, int]


@final
class Program:
    """A checked program. `code`: as it was given (`struct sock_filter` each); `insns`: taken apart."""

    __slots__ = ("code", "insns")

    def __init__(self, code: bytes) -> None:
        """Raises OSError EINVAL for what is no valid program (Linux: bpf_check_classic)."""
        size = len(code) // BPF_INSN_SIZE
        if len(code) % BPF_INSN_SIZE or not 1 <= size <= BPF_MAXINSNS:
            raise error(
                errno.EINVAL, f"filter: expected 1 to {BPF_MAXINSNS} instructions of 8 bytes, not {len(code)} bytes"
            )
        self.code = bytes(code)
        self.insns: list[Insn] = [_INSN.unpack_from(code, 8 * i) for i in range(size)]
        _check(self.insns)

    def run(self, skb: SKBuff) -> int:
        """How many bytes of `skb`, counted from `data`, to keep; 0 to drop it."""
        return run(self.insns, skb)


def _bad(index: int, what: str) -> OSError:
    return error(errno.EINVAL, f"filter: instruction {index}: {what}")


def _check(insns: list[Insn]) -> None:
    count = len(insns)
    for index, (code, jt, jf, k) in enumerate(insns):
        if code not in _VALID:
            raise _bad(index, f"there is no code {code:#06x}")
        kind = code & 7
        if kind == BPF_ALU:
            operation = code & 0xF8
            if operation in (BPF_DIV | BPF_K, BPF_MOD | BPF_K) and k == 0:
                raise _bad(index, "division by zero")
            if operation in (BPF_LSH | BPF_K, BPF_RSH | BPF_K) and k >= 32:
                raise _bad(index, f"shift by {k} bits, expected 0 to 31")
        elif kind in (BPF_ST, BPF_STX) or (kind in (BPF_LD, BPF_LDX) and code & 0xE0 == BPF_MEM):
            if k >= BPF_MEMWORDS:
                raise _bad(index, f"memory word {k}, expected 0 to {BPF_MEMWORDS - 1}")
        elif kind == BPF_JMP:
            if code == BPF_JMP | BPF_JA:
                if k >= count - index - 1:
                    raise _bad(index, f"jump over {k} instructions leaves the program")
            elif index + jt + 1 >= count or index + jf + 1 >= count:
                raise _bad(index, f"jump over {max(jt, jf)} instructions leaves the program")
        elif (
            kind == BPF_LD and code & 0xE0 == BPF_ABS and k >= SKF_AD_OFF and (k - SKF_AD_OFF) not in range(0, 64, 4)
        ):
            raise _bad(index, f"there is no ancillary load at {k - SKF_AD_OFF}")
    if insns[-1][0] & 7 != BPF_RET:
        raise _bad(count - 1, "expected a return at the end")
    _check_memory(insns)


def _check_memory(insns: list[Insn]) -> None:
    """No word is read that wasn't written on every path to it (Linux: check_load_and_stores)."""
    masks = [0xFFFF] * len(insns)
    valid = 0
    for index, (code, jt, jf, k) in enumerate(insns):
        valid &= masks[index]
        kind = code & 7
        if kind in (BPF_ST, BPF_STX):
            valid |= 1 << k
        elif kind in (BPF_LD, BPF_LDX):
            if code & 0xE0 == BPF_MEM and not valid >> k & 1:
                raise _bad(index, f"memory word {k} is read before it was written")
        elif kind == BPF_JMP:
            if code == BPF_JMP | BPF_JA:
                masks[index + 1 + k] &= valid
            else:
                masks[index + 1 + jt] &= valid
                masks[index + 1 + jf] &= valid
            # What follows is reached by jumps alone, and they have left their masks.
            valid = 0xFFFF


def _load(head: bytes, skb: SKBuff, base: int, end: int, offset: int, size: int) -> int:
    """`size` bytes at `offset` from `data`, or for the highest offsets from the network or link header; -1 where the
    packet has no such bytes (Linux: bpf_internal_load_pointer_neg_helper)."""
    if offset < 0x80000000:
        start = base + offset
    elif offset >= SKF_NET_OFF:
        if skb.network_header < 0:
            return -1
        start = base - skb.data + skb.network_header + offset - SKF_NET_OFF
    elif offset >= SKF_LL_OFF:
        if skb.mac_header < 0:
            return -1
        start = base - skb.data + skb.mac_header + offset - SKF_LL_OFF
    else:
        return -1
    if start + size > end or start < 0:
        return -1
    return int.from_bytes(head[start : start + size], "big")


def _ancillary(skb: SKBuff, what: int, a: int, x: int) -> int:
    """What Linux knows of a packet beside its bytes (Linux: convert_bpf_extensions); 0 for what is not known here."""
    dev = skb.dev
    if what == SKF_AD_PROTOCOL:
        return skb.protocol & 0xFFFF
    if what == SKF_AD_PKTTYPE:
        return skb.pkt_type
    if what == SKF_AD_IFINDEX:
        return dev.index if dev is not None else 0
    if what == SKF_AD_HATYPE:
        return dev.link_type if dev is not None else 0
    if what == SKF_AD_MARK:
        return skb.mark & _MASK
    if what == SKF_AD_ALU_XOR_X:
        return a ^ x
    if what == SKF_AD_PAY_OFFSET:
        return max(skb.transport_header - skb.data, 0) if skb.transport_header >= 0 else 0
    if what == SKF_AD_RANDOM and dev is not None:
        return int(dev.net.random.getrandbits(32))
    return 0


def _alu(operation: int, a: int, value: int) -> int:
    """One arithmetic step; -1 for a division by zero, which ends the program with 0."""
    if operation == BPF_ADD:
        return (a + value) & _MASK
    if operation == BPF_SUB:
        return (a - value) & _MASK
    if operation == BPF_AND:
        return a & value
    if operation == BPF_OR:
        return a | value
    if operation == BPF_XOR:
        return a ^ value
    if operation == BPF_MUL:
        return (a * value) & _MASK
    if operation == BPF_LSH:
        # Linux masks a shift by X, as processors do.
        return (a << (value & 31)) & _MASK
    if operation == BPF_RSH:
        return a >> (value & 31)
    if operation == BPF_NEG:
        return -a & _MASK
    if value == 0:
        return -1
    return a // value if operation == BPF_DIV else a % value


def run(insns: list[Insn], skb: SKBuff) -> int:
    """Run a checked program over `skb` from `data` on (Linux: bpf_prog_run). Returns 0 to 0xFFFFFFFF."""
    head = skb.head
    base = skb.data
    end = skb.tail
    if skb.data_len:
        head = skb.head[: skb.tail] + skb.tobytes(skb.len - skb.data_len)
        end = len(head)
    a = 0
    x = 0
    memory: list[int] = []
    pc = 0
    while True:
        code, jt, jf, k = insns[pc]
        pc += 1
        kind = code & 7
        if kind == BPF_JMP:
            operation = code & 0xF0
            if operation == BPF_JA:
                pc += k
                continue
            value = x if code & BPF_X else k
            if operation == BPF_JEQ:
                true = a == value
            elif operation == BPF_JGT:
                true = a > value
            elif operation == BPF_JGE:
                true = a >= value
            else:
                true = bool(a & value)
            pc += jt if true else jf
        elif kind == BPF_LD:
            mode = code & 0xE0
            if mode in (BPF_ABS, BPF_IND):
                if mode == BPF_ABS and k >= SKF_AD_OFF:
                    a = _ancillary(skb, k - SKF_AD_OFF, a, x)
                    continue
                size = 4 if code & 0x18 == BPF_W else 2 if code & 0x18 == BPF_H else 1
                a = _load(head, skb, base, end, k if mode == BPF_ABS else (k + x) & _MASK, size)
                if a < 0:
                    return 0
            elif mode == BPF_IMM:
                a = k
            elif mode == BPF_MEM:
                a = memory[k]
            else:
                a = end - base
        elif kind == BPF_RET:
            return a if code & 0x18 == BPF_A else k
        elif kind == BPF_ALU:
            a = _alu(code & 0xF0, a, x if code & BPF_X else k)
            if a < 0:
                return 0
        elif kind == BPF_LDX:
            mode = code & 0xE0
            if mode == BPF_MSH:
                # The length of an IPv4 header, in one instruction.
                x = _load(head, skb, base, end, k, 1)
                if x < 0:
                    return 0
                x = (x & 15) << 2
            elif mode == BPF_IMM:
                x = k
            elif mode == BPF_MEM:
                x = memory[k]
            else:
                x = end - base
        elif kind == BPF_MISC:
            if code & 0xF8 == BPF_TAX:
                x = a
            else:
                a = x
        else:
            if not memory:
                memory = [0] * BPF_MEMWORDS
            memory[k] = a if kind == BPF_ST else x
