"""x86-64 (Linux: arch/x86/entry/syscalls/syscall_64.tbl). Its other ABIs, x32 and i386, are not served."""

from __future__ import annotations

from typing import Final

from usernet.netd.supervisor.abi import Abi

ABI: Final = Abi(
    "x86_64",
    0xC000003E,
    {
        "mmap": 9,
        "ioctl": 16,
        "socket": 41,
        "connect": 42,
        "accept": 43,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "shutdown": 48,
        "bind": 49,
        "listen": 50,
        "getsockname": 51,
        "getpeername": 52,
        "setsockopt": 54,
        "getsockopt": 55,
        "accept4": 288,
        "recvmmsg": 299,
        "sendmmsg": 307,
        "seccomp": 317,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
    },
    foreign=0x40000000,  # __X32_SYSCALL_BIT
)
