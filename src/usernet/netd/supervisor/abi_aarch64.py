"""64-bit ARM (Linux: include/uapi/asm-generic/unistd.h). Its 32-bit ABI is not served."""

from __future__ import annotations

from typing import Final

from usernet.netd.supervisor.abi import Abi

ABI: Final = Abi(
    "aarch64",
    0xC00000B7,
    {
        "ioctl": 29,
        "socket": 198,
        "bind": 200,
        "listen": 201,
        "accept": 202,
        "connect": 203,
        "getsockname": 204,
        "getpeername": 205,
        "sendto": 206,
        "recvfrom": 207,
        "setsockopt": 208,
        "getsockopt": 209,
        "shutdown": 210,
        "sendmsg": 211,
        "recvmsg": 212,
        "mmap": 222,
        "accept4": 242,
        "recvmmsg": 243,
        "sendmmsg": 269,
        "seccomp": 277,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
    },
)
