"""What the benchmarks share: namespaces with a kernel in them, and peers as processes of their own.

A peer is a small Python program run in a network namespace on the kernel's sockets, or in this process on a stack's:
the same code does the same work on either, so that the ratio is of the two transports and of nothing else.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import usernet
from usernet import drivers
from usernet.core.malloc import tune_malloc

_numbers = itertools.count()

CHUNK = 1 << 17
"""Bytes an application gives to send() and recv() at a time, on both sides (iperf3's default)."""


def run(*command: str) -> str:
    """Run a command; returns what it printed. Raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def namespace(label: str) -> Iterator[str]:
    """A network namespace of the kernel, deleted at the end. Yields its name."""
    name = f"bench-{label}-{os.getpid()}-{next(_numbers)}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextmanager
def veth_pair(mtu: int = 1500) -> Iterator[tuple[str, str]]:
    """Two namespaces joined by the kernel's veth, 10.78.0.1 and 10.78.0.2, with CUBIC. Yields their names."""
    with namespace("a") as a, namespace("b") as b:
        run("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        for name, address in ((a, "10.78.0.1"), (b, "10.78.0.2")):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "veth0")
            run("ip", "-n", name, "link", "set", "veth0", "mtu", str(mtu), "up")
            use_cubic(name, "10.78.0.0/24", "veth0")
        yield a, b


@contextmanager
def device_stack(kind: str = "TAP", offload: bool = True, mtu: int = 1500) -> Iterator[tuple[str, usernet.Stack]]:
    """A namespace, 10.77.0.1, and a started stack, 10.77.0.2, joined by a TAP or TUN. Yields its name and the stack."""
    driver = drivers.Tap if kind == "TAP" else drivers.Tun
    with namespace(kind.lower()) as name, usernet.Stack("bench") as stack:
        device = driver("dev0", offload=offload, address="10.77.0.1/24", mtu=mtu, netns=name)
        stack.add_device(device, "eth0", "10.77.0.2/24")
        use_cubic(name, "10.77.0.0/24", "dev0")
        yield name, stack


@contextmanager
def tap_stack(offload: bool = True) -> Iterator[tuple[str, usernet.Stack]]:
    """A namespace, 10.77.0.1, and a started stack, 10.77.0.2, joined by a TAP of MTU 1500."""
    with device_stack("TAP", offload) as pair:
        yield pair


def use_cubic(name: str, prefix: str, dev: str) -> None:
    """The kernel's connections along this route use CUBIC, as the stack's do."""
    run("ip", "-n", name, "route", "change", prefix, "dev", dev, "congctl", "cubic")


def peer(name: str, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program in a namespace; it prints a line when it is ready."""
    return start(["ip", "netns", "exec", name, sys.executable, "-c", program, *arguments])


def reference(*arguments: str) -> subprocess.Popen[str]:
    """Start a program of _tun.py."""
    return start([sys.executable, os.path.join(os.path.dirname(__file__), "_tun.py"), *arguments])


def start(command: Sequence[str], pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
    """Start a peer by a command, which inherits `pass_fds`. Raises RuntimeError where it does not say "ready"."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.kill()
        raise RuntimeError(f"{command[0]} … did not start")
    return process


def stop(process: subprocess.Popen[str]) -> None:
    """End a program that does not end by itself."""
    process.kill()
    process.communicate()


def answer(process: subprocess.Popen[str], seconds: float = 60.0) -> list[float]:
    """What a peer measured: the numbers of its last line."""
    output, _ = process.communicate(timeout=seconds)
    return [float(word) for word in output.split()]


def prepare() -> None:
    """What a benchmark does first: it must be root, and malloc must keep large buffers (DESIGN: page faults)."""
    if os.geteuid() != 0:
        sys.exit("this benchmark makes network namespaces and TAP devices: run it as root")
    tune_malloc()
