"""Whether anyone still holds a UNIX socket: asked of the kernel by sock_diag(7), as `ss -x` does.

An end whose peer was shut down both ways, and one whose peer was closed, look the same to poll(2); here the first has a
peer with an inode and the second one without.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_NETLINK, AF_UNIX, SOCK_CLOEXEC, SOCK_RAW, socket
from struct import Struct
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_UDIAG_SHOW_PEER: Final = 4
_UNIX_DIAG_PEER: Final = 2
_NLMSGHDR: Final = Struct("=IHHII")
_REQUEST: Final = Struct("=BBHIIIII")
"""struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie (2 words)."""
_MESSAGE: Final = 16
"""Bytes of struct unix_diag_msg."""
_ATTRIBUTE: Final = Struct("=HH")


def _ask(inode: int) -> bytes:
    """What the kernel knows of the UNIX socket `inode`: its attributes; b"" where there is none, or no answer."""
    request = _REQUEST.pack(AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _UDIAG_SHOW_PEER, 0xFFFFFFFF, 0xFFFFFFFF)
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    asker = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        asker.send(header + request)
        answer: bytes = asker.recv(4096)
    finally:
        asker.close()
    if len(answer) < _NLMSGHDR.size or _NLMSGHDR.unpack_from(answer)[1] == _NLMSG_ERROR:
        return b""
    return answer[_NLMSGHDR.size + _MESSAGE :]


def peer_inode(fd: int) -> int:
    """The inode of the other end of a pair; 0 where it was closed. Raises OSError where the kernel can't be asked."""
    attributes = _ask(os.fstat(fd).st_ino)
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _UNIX_DIAG_PEER:
            return int.from_bytes(attributes[4:8], sys.byteorder)
        attributes = attributes[max((length + 3) & ~3, _ATTRIBUTE.size) :]
    return 0


def is_open(inode: int) -> bool:
    """Whether the UNIX socket `inode` is still open somewhere. Raises OSError where the kernel can't be asked."""
    return bool(_ask(inode))

