"""The filter: which system calls of a command are taken, decided in the kernel (seccomp(2), Linux: linux/filter.h).

A taken call costs a notification, and data must not pass through one. So what moves data on a stream goes unseen: read
and write, which the filter knows nothing of, and sendto and recvfrom with no address and ordinary flags. The rest of
the socket calls is taken, by number; `socket` by its domain, `ioctl` by its request, `mmap` where it may be of a packet
socket's ring: shared, writable, of a descriptor from its start on. Everything else is the host's.

The program looks at the architecture first: a call of another ABI, whose numbers mean something else, does not exist.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, final

from usernet.netd.supervisor.abi import Abi

# linux/bpf_common.h: classic BPF, of which seccomp takes words at aligned places only.
BPF_LD_W_ABS: Final = 0x20
BPF_JEQ_K: Final = 0x15
BPF_JGE_K: Final = 0x35
BPF_JSET_K: Final = 0x45
BPF_RET_K: Final = 0x06

SECCOMP_RET_ERRNO: Final = 0x00050000
SECCOMP_RET_USER_NOTIF: Final = 0x7FC00000
SECCOMP_RET_ALLOW: Final = 0x7FFF0000

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6].
NR: Final = 0
ARCH: Final = 4
_ARGS: Final = 16

LONGEST_JUMP: Final = 255
BPF_MAXINSNS: Final = 4096

AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16
AF_PACKET: Final = 17
DOMAINS: Final = (AF_INET, AF_INET6, AF_NETLINK, AF_PACKET)
"""The families of which sockets are a stack's. AF_INET6 is among them, though a stack may not have it: it must not be
the host's."""

MSG_PEEK: Final = 0x2
MSG_DONTWAIT: Final = 0x40
MSG_WAITALL: Final = 0x100
MSG_NOSIGNAL: Final = 0x4000
ORDINARY_FLAGS: Final = MSG_PEEK | MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL
"""What a pair of UNIX sockets does as TCP does."""

PROT_WRITE: Final = 0x2
MAP_SHARED: Final = 0x1
"""Also in MAP_SHARED_VALIDATE. What a dynamic loader maps is private."""
MAP_ANONYMOUS: Final = 0x20

SIOCOUTQ: Final = 0x5411
SIOC_FIRST: Final = 0x8900
SIOC_LAST: Final = 0x89FF
"""linux/sockios.h: requests to sockets and interfaces. FIONREAD is not among them: the descriptor itself knows."""

TAKEN: Final = (
    "connect", "accept", "accept4", "bind", "listen", "getsockname", "getpeername", "setsockopt", "getsockopt",
    "shutdown", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg",
)  # fmt: skip
"""Calls that are taken whatever their arguments."""

IO_URING: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register")

_INSTRUCTION: Final = Struct("=HBBI")


def arg(index: int, high: bool = False) -> int:
    """Where a half of an argument is in seccomp_data, on a little-endian machine."""
    return _ARGS + 8 * index + (4 if high else 0)


@final
class Assembler:
    """A program, put together from its end: jumps go forward only, and so each finds its goal already there.

    `ret`, `load` and `test` each put an instruction in front and return its label. A label is how far the instruction
    is from the end of the program.
    """

    def __init__(self) -> None:
        self._backwards: list[bytes] = []

    def __len__(self) -> int:
        return len(self._backwards)

    def _put(self, code: int, k: int, true: int = 0, false: int = 0) -> int:
        self._backwards.append(_INSTRUCTION.pack(code, true, false, k))
        return len(self._backwards)

    def ret(self, verdict: int) -> int:
        """End with `verdict` (SECCOMP_RET_*)."""
        return self._put(BPF_RET_K, verdict)

    def load(self, offset: int) -> int:
        """Load the word of seccomp_data at `offset`, and go on with the instruction that was put last."""
        return self._put(BPF_LD_W_ABS, offset)

    def test(self, code: int, k: int, true: int, false: int | None = None) -> int:
        """Go to `true` where the loaded word is so, else to `false` (None: to the instruction that was put last).

        Raises ValueError for a goal out of reach.
        """
        here = len(self._backwards)
        jumps = [here - label for label in (true, here if false is None else false)]
        if not all(0 <= jump <= LONGEST_JUMP for jump in jumps):
            raise ValueError(f"a jump over {max(jumps)} instructions: {LONGEST_JUMP} are the most")
        return self._put(code, k, *jumps)

    def program(self) -> bytes:
        """All of it: an array of struct sock_filter."""
        if len(self._backwards) > BPF_MAXINSNS:
            raise ValueError(f"a filter of {len(self._backwards)} instructions: {BPF_MAXINSNS} are the most")
        return b"".join(reversed(self._backwards))


def build(
    abi: Abi,
    *,
    domains: Iterable[int] = DOMAINS,
    requests: Sequence[tuple[int, int]] = ((SIOC_FIRST, SIOC_LAST), (SIOCOUTQ, SIOCOUTQ)),
    io_uring: bool = False,
) -> bytes:
    """The filter for a machine.

    domains: the AF_* whose `socket` calls are taken. requests: ranges of ioctl requests, first and last, that are.
    io_uring: let a command have rings; what it does by them goes round the filter, to the host.

    Returns an array of struct sock_filter, to be given to `seccomp.install`.
    """
    numbers = abi.numbers
    asm = Assembler()
    # The verdicts come last, so that every test reaches them.
    missing = asm.ret(SECCOMP_RET_ERRNO | errno.ENOSYS)
    taken = asm.ret(SECCOMP_RET_USER_NOTIF)
    allowed = asm.ret(SECCOMP_RET_ALLOW)

    def any_of(values: Iterable[int]) -> None:
        for value in values:
            asm.test(BPF_JEQ_K, value, taken)

    # Each of these starts by loading its argument; a call that nothing takes falls through to `allowed`.
    asm.ret(SECCOMP_RET_ALLOW)
    any_of(domains)
    socket = asm.load(arg(0))

    asm.ret(SECCOMP_RET_ALLOW)
    for first, last in requests:
        if first == last:
            asm.test(BPF_JEQ_K, first, taken)
        else:
            after = len(asm)
            asm.test(BPF_JGE_K, last + 1, after, taken)
            asm.test(BPF_JGE_K, first, len(asm), after)
    request = asm.load(arg(1))

    asm.test(BPF_JEQ_K, 0, allowed, taken)
    asm.load(arg(4, high=True))
    asm.test(BPF_JEQ_K, 0, len(asm), taken)
    asm.load(arg(4))
    asm.test(BPF_JSET_K, ~ORDINARY_FLAGS & 0xFFFFFFFF, taken)
    addressed = asm.load(arg(3))

    asm.test(BPF_JEQ_K, 0, taken, allowed)
    asm.load(arg(5, high=True))
    asm.test(BPF_JEQ_K, 0, len(asm), allowed)
    asm.load(arg(5))
    asm.test(BPF_JSET_K, PROT_WRITE, len(asm), allowed)
    asm.load(arg(2))
    asm.test(BPF_JSET_K, MAP_SHARED, len(asm), allowed)
    asm.test(BPF_JSET_K, MAP_ANONYMOUS, allowed)
    mapped = asm.load(arg(3))

    asm.ret(SECCOMP_RET_ALLOW)
    if not io_uring:
        for name in IO_URING:
            asm.test(BPF_JEQ_K, numbers[name], missing)
    for name in TAKEN:
        asm.test(BPF_JEQ_K, numbers[name], taken)
    labels = {"socket": socket, "ioctl": request, "mmap": mapped, "sendto": addressed, "recvfrom": addressed}
    for name, label in labels.items():
        asm.test(BPF_JEQ_K, numbers[name], label)
    if abi.foreign:
        # A tracer that skips a call sets its number to -1, which has the bit too.
        asm.test(BPF_JGE_K, abi.foreign, missing)
    asm.load(NR)
    asm.test(BPF_JEQ_K, abi.audit_arch, len(asm), missing)
    asm.load(ARCH)
    return asm.program()
