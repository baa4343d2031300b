"""What differs between the machines that programs run on: the numbers of their system calls."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import final


@final
class Abi:
    """One machine's system calls (Linux: asm/unistd.h). audit_arch: how a filter sees it (linux/audit.h, AUDIT_ARCH_*).
    numbers: by name. foreign: the bit in a number that marks a call of another ABI of the same machine; 0 for none."""

    __slots__ = ("audit_arch", "foreign", "machine", "names", "numbers")

    def __init__(self, machine: str, audit_arch: int, numbers: Mapping[str, int], foreign: int = 0) -> None:
        self.machine = machine
        self.audit_arch = audit_arch
        self.numbers = numbers
        self.foreign = foreign
        self.names = {number: name for name, number in numbers.items()}


def of_this_machine() -> Abi:
    """The ABI of the machine we run on. Raises NotImplementedError on one that is not served."""
    machine = platform.machine()
    if machine == "x86_64":
        from usernet.netd.supervisor import abi_x86_64

        return abi_x86_64.ABI
    if machine == "aarch64":
        from usernet.netd.supervisor import abi_aarch64

        return abi_aarch64.ABI
    raise NotImplementedError(f"programs are supervised on x86_64 and aarch64, not on {machine}")
