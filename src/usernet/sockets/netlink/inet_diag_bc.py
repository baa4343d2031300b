"""The filters of inet_diag: a small program that says which sockets to tell of (Linux: inet_diag_bc_run,
inet_diag_bc_audit). `ss` compiles its conditions to it.

An instruction is a code and two distances: how far to go on where it holds, and where not. One that ends exactly behind
the last instruction has said yes; one that goes 4 bytes further, no.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error

BC_NOP: Final = 0
BC_JMP: Final = 1
BC_S_GE: Final = 2
BC_S_LE: Final = 3
BC_D_GE: Final = 4
BC_D_LE: Final = 5
BC_AUTO: Final = 6
BC_S_COND: Final = 7
BC_D_COND: Final = 8
BC_DEV_COND: Final = 9
BC_MARK_COND: Final = 10
BC_S_EQ: Final = 11
BC_D_EQ: Final = 12
BC_CGROUP_COND: Final = 13

CGROUP_ID: Final = 1
"""Of the root control group: sockets here are in no other."""

_OP: Final = Struct("=BBH")
_HOSTCOND: Final = Struct("=BBxxi")
_MARK: Final = Struct("=II")
_ADDR_LENGTHS: Final = {0: 0, 2: 4, 10: 16}
_PORTS: Final = frozenset((BC_S_GE, BC_S_LE, BC_D_GE, BC_D_LE, BC_S_EQ, BC_D_EQ))


@final
class Entry:
    """What a filter sees of a socket. Ports in host order; auto: its port was chosen for it."""

    __slots__ = ("auto", "daddr", "dport", "family", "ifindex", "mark", "saddr", "sport")

    def __init__(
        self, family: int, saddr: bytes, sport: int, daddr: bytes, dport: int, ifindex: int, mark: int, auto: bool,
    ) -> None:  # fmt: skip
        self.family = family
        self.saddr = saddr
        self.sport = sport
        self.daddr = daddr
        self.dport = dport
        self.ifindex = ifindex
        self.mark = mark
        self.auto = auto


def _least(code: bytes, at: int, left: int) -> int:
    """How many bytes the instruction at `at` takes. Raises OSError EINVAL where it isn't one, or is cut off."""
    op = code[at]
    size = _OP.size
    if op in (BC_S_COND, BC_D_COND):
        size += _HOSTCOND.size
        if left >= size:
            family, prefix, _ = _HOSTCOND.unpack_from(code, at + _OP.size)
            length = _ADDR_LENGTHS.get(family)
            if length is None or prefix > 8 * length:
                raise error(errno.EINVAL)
            size += length
    elif op in _PORTS or op == BC_DEV_COND:
        size += 4
    elif op in (BC_MARK_COND, BC_CGROUP_COND):
        size += 8
    elif op not in (BC_AUTO, BC_JMP, BC_NOP):
        raise error(errno.EINVAL)
    if left < size:
        raise error(errno.EINVAL)
    return size


def audit(code: bytes) -> None:
    """Check that a program ends. Raises OSError EINVAL."""
    size = len(code)
    if size < _OP.size:
        raise error(errno.EINVAL)
    starts: set[int] = set()
    jumps: list[int] = []
    at = 0
    while at < size:
        left = size - at
        if left < _OP.size:
            raise error(errno.EINVAL)
        starts.add(at)
        op, yes, no = _OP.unpack_from(code, at)
        least = _least(code, at, left)
        if op != BC_NOP:
            if no < least or no > left + 4 or no & 3:
                raise error(errno.EINVAL)
            if no < left:
                jumps.append(at + no)
        if yes < least or yes > left + 4 or yes & 3:
            raise error(errno.EINVAL)
        at += yes
    if at != size or not starts.issuperset(jumps):
        raise error(errno.EINVAL)


def run(code: bytes, entry: Entry) -> bool:
    """Whether the socket is to be told of. `code` has passed `audit`."""
    at = 0
    size = len(code)
    while at < size:
        op, yes, no = _OP.unpack_from(code, at)
        at += yes if _holds(op, code, at, entry) else no
    return at == size


def _holds(op: int, code: bytes, at: int, entry: Entry) -> bool:
    if op == BC_NOP:
        return True
    if op == BC_JMP:
        return False
    if op in _PORTS:
        port: int = _OP.unpack_from(code, at + _OP.size)[2]
        actual = entry.dport if op in (BC_D_GE, BC_D_LE, BC_D_EQ) else entry.sport
        if op in (BC_S_GE, BC_D_GE):
            return actual >= port
        if op in (BC_S_LE, BC_D_LE):
            return actual <= port
        return actual == port
    if op == BC_AUTO:
        return entry.auto
    data = at + _OP.size
    if op == BC_DEV_COND:
        return int.from_bytes(code[data : data + 4], "little") == entry.ifindex
    if op == BC_MARK_COND:
        mark, mask = _MARK.unpack_from(code, data)
        return bool(entry.mark & mask == mark)
    if op == BC_CGROUP_COND:
        return int.from_bytes(code[data : data + 8], "little") == CGROUP_ID
    family, prefix, port = _HOSTCOND.unpack_from(code, data)
    local = op == BC_S_COND
    if port not in (-1, entry.sport if local else entry.dport):
        return False
    if family not in (0, entry.family):
        return False
    addr = entry.saddr if local else entry.daddr
    wanted = code[data + _HOSTCOND.size : data + _HOSTCOND.size + len(addr)]
    shift = 8 * len(addr) - prefix
    return not prefix or int.from_bytes(addr, "big") >> shift == int.from_bytes(wanted, "big") >> shift
