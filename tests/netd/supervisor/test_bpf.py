from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.netd.supervisor.abi import Abi
from usernet.netd.supervisor.abi_aarch64 import ABI as AARCH64
from usernet.netd.supervisor.abi_x86_64 import ABI as X86_64
from usernet.netd.supervisor.bpf import (
    BPF_JEQ_K,
    BPF_JGE_K,
    BPF_JSET_K,
    BPF_LD_W_ABS,
    BPF_RET_K,
    LONGEST_JUMP,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_USER_NOTIF,
    TAKEN,
    Assembler,
    build,
)

MISSING = SECCOMP_RET_ERRNO | errno.ENOSYS
ABIS = pytest.mark.parametrize("abi", [X86_64, AARCH64], ids=lambda abi: abi.machine)


def run(program: bytes, nr: int, arch: int, *args: int) -> int:
    """What the kernel's interpreter would come to."""
    padded = (*args, *[0] * (6 - len(args)))
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *[arg & (1 << 64) - 1 for arg in padded])
    code = list(struct.iter_unpack("=HBBI", program))
    tests = {
        BPF_JEQ_K: lambda a, k: a == k,
        BPF_JGE_K: lambda a, k: a >= k,
        BPF_JSET_K: lambda a, k: bool(a & k),
    }
    accumulator = at = 0
    while True:
        op, true, false, k = code[at]
        at += 1
        if op == BPF_RET_K:
            return int(k)
        if op == BPF_LD_W_ABS:
            assert k % 4 == 0 and k < 64
            accumulator = struct.unpack_from("=I", data, k)[0]
        else:
            at += true if tests[op](accumulator, k) else false


def verdict(abi: Abi, name: str, *args: int, **options: object) -> int:
    return run(build(abi, **options), abi.numbers[name], abi.audit_arch, *args)  # type: ignore[arg-type]


@ABIS
def test_socket_goes_by_its_domain(abi):
    for domain in (2, 10, 16, 17):
        assert verdict(abi, "socket", domain, 1, 0) == SECCOMP_RET_USER_NOTIF
        # It is an int: what is above it is nobody's.
        assert verdict(abi, "socket", domain | 5 << 32, 1, 0) == SECCOMP_RET_USER_NOTIF
    for domain in (0, 1, 3, 38, 40):
        assert verdict(abi, "socket", domain, 1, 0) == SECCOMP_RET_ALLOW


@ABIS
def test_calls_on_sockets_are_taken_whatever_their_arguments(abi):
    for name in TAKEN:
        assert verdict(abi, name, 3, -1, 1 << 40) == SECCOMP_RET_USER_NOTIF


@ABIS
@pytest.mark.parametrize("name", ["sendto", "recvfrom"])
def test_data_without_address_and_with_ordinary_flags_goes_unseen(abi, name):
    assert verdict(abi, name, 3, 99, 5, 0, 0, 0) == SECCOMP_RET_ALLOW
    assert verdict(abi, name, 3, 99, 5, 0x4142, 0, 8) == SECCOMP_RET_ALLOW
    assert verdict(abi, name, 3, 99, 5, 0, 1, 0) == SECCOMP_RET_USER_NOTIF
    assert verdict(abi, name, 3, 99, 5, 0, 1 << 32, 0) == SECCOMP_RET_USER_NOTIF
    for flag in (1, 4, 8, 0x20, 0x2000, 0x8000, 0x20000000, 0x80000000):
        assert verdict(abi, name, 3, 99, 5, flag, 0, 0) == SECCOMP_RET_USER_NOTIF


@ABIS
def test_ioctl_goes_by_its_request(abi):
    for request in (0x8900, 0x8912, 0x894B, 0x89FF, 0x5411, 0x8912 | 7 << 32):
        assert verdict(abi, "ioctl", 3, request, 0) == SECCOMP_RET_USER_NOTIF
    for request in (0x5401, 0x5421, 0x541B, 0x88FF, 0x8A00, 0):
        assert verdict(abi, "ioctl", 3, request, 0) == SECCOMP_RET_ALLOW
    assert verdict(abi, "ioctl", 3, 0x541B, requests=[(1, 2)]) == SECCOMP_RET_ALLOW
    assert verdict(abi, "ioctl", 3, 2, requests=[(1, 2), (9, 9)]) == SECCOMP_RET_USER_NOTIF
    assert verdict(abi, "ioctl", 3, 9, requests=[(1, 2), (9, 9)]) == SECCOMP_RET_USER_NOTIF


@ABIS
def test_mmap_is_taken_where_it_may_be_of_a_packet_ring(abi):
    rw, shared = 3, 1
    for args in ((0, 8192, rw, shared, 4, 0), (0, 8192, 2, 3, 4, 0), (1 << 40, 1, rw, shared | 0x8000, 1 << 33, 0)):
        assert verdict(abi, "mmap", *args) == SECCOMP_RET_USER_NOTIF
    for args in (
        (0, 8192, rw, 2, 4, 0), (0, 8192, 5, 2 | 0x800, 4, 0), (0, 8192, rw, shared | 0x20, -1, 0),
        (0, 8192, 1, shared, 4, 0), (0, 8192, rw, shared, 4, 4096), (0, 8192, rw, shared, 4, 1 << 32),
    ):  # fmt: skip
        assert verdict(abi, "mmap", *args) == SECCOMP_RET_ALLOW, args


@ABIS
def test_rings_are_not_there_but_where_they_are_asked_for(abi):
    assert verdict(abi, "io_uring_setup", 8) == MISSING
    assert verdict(abi, "io_uring_enter", 8) == MISSING
    assert verdict(abi, "io_uring_setup", 8, io_uring=True) == SECCOMP_RET_ALLOW


def test_other_abis_are_not_there():
    program = build(X86_64)
    assert run(program, 102, 0x40000003) == MISSING  # socketcall of i386
    assert run(program, 41 | 0x40000000, X86_64.audit_arch, 2) == MISSING  # socket of x32
    assert run(build(AARCH64), 281, 0x40000028) == MISSING  # socket of 32-bit ARM


@ABIS
@given(nr=st.integers(0, 600), args=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
def test_all_else_is_the_hosts(abi, nr, args):
    found = run(build(abi), nr, abi.audit_arch, *args)
    if nr not in abi.names or abi.names[nr] == "seccomp":
        assert found == SECCOMP_RET_ALLOW
    else:
        assert found in (SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF, MISSING)


def test_a_jump_too_far_is_refused():
    asm = Assembler()
    far = asm.ret(0)
    for _ in range(LONGEST_JUMP):
        asm.ret(1)
    asm.test(BPF_JEQ_K, 1, far)
    with pytest.raises(ValueError, match="jump over 256"):
        asm.test(BPF_JEQ_K, 1, far)
