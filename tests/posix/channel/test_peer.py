"""What the kernel says of the other end of a pair."""

from __future__ import annotations

import os
import socket

from usernet.posix.channel import peer
from usernet.posix.channel.peer import is_open, which_are_open


def test_shut_down_is_not_closed():
    one, two = socket.socketpair()
    inode = os.fstat(two.fileno()).st_ino
    assert is_open(inode)
    two.shutdown(socket.SHUT_RDWR)
    assert is_open(inode)
    copy = two.dup()
    two.close()
    assert is_open(inode)
    copy.close()
    assert not is_open(inode)
    one.close()


def test_the_list_of_a_kernel_that_does_not_answer_says_the_same():
    one, two = socket.socketpair()
    inodes = {os.fstat(end.fileno()).st_ino for end in (one, two)}
    assert peer._listed() >= inodes
    assert peer._answers() == peer._ask(min(inodes))
    assert which_are_open([*inodes]) == inodes
    one.close()
    two.close()
    assert not peer._listed() & inodes
