"""Bare CPython on TUN and TAP: what the interpreter and its system calls cost without any stack. References only.

A program of its own each (`python bench/_tun.py echo NETNS`), which ends when its parent does.
"""

from __future__ import annotations

import os
import select
import sys

from usernet.drivers import Tap, Tun


def echo(netns: str) -> None:
    """Send every IPv4 packet back to where it came from, addresses and ports swapped: its sums stay right. Woken by
    epoll, one read, one write."""
    device = Tun("dev0", offload=False, address="10.77.0.1/24", netns=netns)
    fd = device._fd
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN)
    parent = os.getppid()
    print("ready", flush=True)
    while os.getppid() == parent:
        for _ in epoll.poll(0.5):
            try:
                while True:
                    packet = os.read(fd, 2048)
                    if packet[0] >> 4 == 4:
                        packet = (
                            packet[:12] + packet[16:20] + packet[12:16] + packet[22:24] + packet[20:22] + packet[24:]
                        )
                        os.write(fd, packet)
            except BlockingIOError:
                pass


def copy(left: str, right: str) -> None:
    """Copy every frame from the TAP in one namespace to the one in the other, both ways: a cable, not a router."""
    a = Tap("dev0", offload=False, address="10.1.0.1/24", netns=left)
    b = Tap("dev0", offload=False, address="10.2.0.1/24", netns=right)
    other = {a._fd: b._fd, b._fd: a._fd}
    epoll = select.epoll()
    for fd in other:
        epoll.register(fd, select.EPOLLIN)
    parent = os.getppid()
    read, write = os.read, os.write
    print("ready", flush=True)
    while os.getppid() == parent:
        for fd, _ in epoll.poll(0.5):
            out = other[fd]
            try:
                for _ in range(64):
                    write(out, read(fd, 2048))
            except BlockingIOError:
                pass


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        copy(sys.argv[2], sys.argv[3])
