"""Whether anyone still holds a UNIX socket: asked of the kernel by sock_diag(7), as `ss -x` does.

An end whose peer was shut down both ways, and one whose peer was closed, look the same to poll(2); but the kernel knows
the first one's peer by its inode, and knows no more of the second's.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_NETLINK, AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, socket
from collections.abc import Collection
from functools import cache
from struct import Struct
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 1
_NLM_F_DUMP: Final = 0x300
_NLMSGHDR: Final = Struct("=IHHII")
_REQUEST: Final = Struct("=BBHIIIII")
"""struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie (2 words)."""

ONE_BY_ONE: Final = 8
"""Sockets up to which each is asked about; the kernel looks for one by walking over all."""


def _ask(inode: int) -> bool:
    """Whether the kernel tells of a UNIX socket `inode`: False where there is none, or no answer."""
    request = _REQUEST.pack(AF_UNIX, 0, 0, 0xFFFFFFFF, inode, 0, 0xFFFFFFFF, 0xFFFFFFFF)
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    asker = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        asker.send(header + request)
        answer: bytes = asker.recv(4096)
    finally:
        asker.close()
    return len(answer) >= _NLMSGHDR.size and _NLMSGHDR.unpack_from(answer)[1] != _NLMSG_ERROR


def is_open(inode: int) -> bool:
    """Whether the UNIX socket `inode` is still open somewhere. Raises OSError where the kernel can't be asked."""
    return _ask(inode) or (not _answers() and inode in _listed())


@cache
def _answers() -> bool:
    """Whether the kernel answers for UNIX sockets: it may be without the module unix_diag, and says then of each that
    there is none."""
    known = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        return _ask(os.fstat(known.fileno()).st_ino)
    finally:
        known.close()


def _listed() -> set[int]:
    """The inodes of all UNIX sockets of this network namespace, from a text that the kernel makes anew each time."""
    with open("/proc/self/net/unix", "rb") as file:
        file.readline()
        return {int(line.split(None, 7)[6]) for line in file}


def which_are_open(inodes: Collection[int]) -> set[int]:
    """Those of `inodes` that are still open somewhere. Raises OSError where the kernel can't be asked."""
    if len(inodes) <= ONE_BY_ONE:
        return {inode for inode in inodes if is_open(inode)}
    return _all_open().intersection(inodes)


def _all_open() -> set[int]:
    """The inodes of all UNIX sockets of this network namespace."""
    if not _answers():
        return _listed()
    found: set[int] = set()
    request = _REQUEST.pack(AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF)
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    asker = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        asker.send(header + request)
        while True:
            answer: bytes = asker.recv(65536)
            offset = 0
            while len(answer) - offset >= _NLMSGHDR.size:
                length, kind = _NLMSGHDR.unpack_from(answer, offset)[:2]
                if kind == _NLMSG_DONE or length < _NLMSGHDR.size:
                    return found
                if kind == _NLMSG_ERROR:
                    code = -int.from_bytes(answer[offset + 16 : offset + 20], sys.byteorder, signed=True)
                    raise OSError(code, os.strerror(code))
                # struct unix_diag_msg: family, type, state, padding, inode
                found.add(int.from_bytes(answer[offset + 20 : offset + 24], sys.byteorder))
                offset += (length + 3) & ~3
    finally:
        asker.close()
