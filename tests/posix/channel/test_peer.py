"""What the kernel says of the other end of a pair."""

from __future__ import annotations

import os
import socket

from usernet.posix.channel.peer import is_open, peer_inode


def test_shut_down_is_not_closed():
    one, two = socket.socketpair()
    inode = os.fstat(two.fileno()).st_ino
    assert peer_inode(one.fileno()) == inode
    two.shutdown(socket.SHUT_RDWR)
    assert peer_inode(one.fileno()) == inode
    copy = two.dup()
    two.close()
    assert peer_inode(one.fileno()) == inode
    assert is_open(inode)
    copy.close()
    assert peer_inode(one.fileno()) == 0
    assert not is_open(inode)
    one.close()
