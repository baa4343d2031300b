from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from usernet.netd.supervisor import bpf
from usernet.netd.supervisor.abi import of_this_machine
from usernet.netd.supervisor.seccomp import Notification, Notifier, install

ABI = of_this_machine()


def _possible() -> bool:
    pid = os.fork()
    if not pid:
        try:
            install(bpf.build(ABI))
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


pytestmark = pytest.mark.skipif(not _possible(), reason="this kernel has no seccomp user notification, or forbids it")


@contextmanager
def supervised(work: Callable[[], int]) -> Iterator[tuple[Notifier, int]]:
    """A child that does `work` under the filter, and exits with what it returns."""
    go, told = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        status = 99
        try:
            fd = install(bpf.build(ABI))
            os.write(told[1], fd.to_bytes(4, "little"))
            os.read(go[0], 1)
            os.close(fd)
            status = work()
        finally:
            os._exit(status)
    number = int.from_bytes(os.read(told[0], 4), "little")
    pidfd = os.pidfd_open(pid)
    import ctypes

    notifier = Notifier(ctypes.CDLL(None).syscall(438, pidfd, number, 0))
    try:
        os.write(go[1], b"g")
        yield notifier, pid
    finally:
        notifier.close()
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass
        for one in (*go, *told, pidfd):
            os.close(one)


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def take(notifier: Notifier) -> Notification:
    """The next call, which comes soon."""
    poller = select.poll()
    poller.register(notifier.fd, select.POLLIN)
    assert poller.poll(60_000)
    call = notifier.receive()
    assert call is not None
    return call


def let_pass(notifier: Notifier) -> None:
    """Have the kernel carry out all that comes, until the child has ended."""
    poller = select.poll()
    poller.register(notifier.fd, select.POLLIN)
    while not poller.poll(60_000)[0][1] & select.POLLHUP:
        call = notifier.receive()
        if call is not None:
            notifier.proceed(call.id)


def test_a_call_is_taken_and_fails_as_it_is_told():
    def work() -> int:
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as problem:
            return problem.errno or 0
        return 1

    with supervised(work) as (notifier, pid):
        call = take(notifier)
        assert (call.pid, ABI.names[call.nr]) == (pid, "socket")
        assert call.args[0] == socket.AF_INET and call.args[1] & 0xF == socket.SOCK_DGRAM
        assert notifier.valid(call.id)
        assert notifier.answer(call.id, 0, errno.EAFNOSUPPORT)
        assert not notifier.valid(call.id)
        assert not notifier.answer(call.id, 0)
        assert status(pid) == errno.EAFNOSUPPORT


def test_a_descriptor_is_put_in_and_returned_in_one_step():
    def work() -> int:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        inheritable = made.get_inheritable()
        made.send(b"x")  # without an address: not taken
        return 7 if not inheritable and os.fstat(made.fileno()) else 1

    ours, theirs = socket.socketpair()
    with ours, theirs, supervised(work) as (notifier, pid):
        call = take(notifier)
        number = notifier.add_fd(call.id, theirs.fileno(), cloexec=True, send=True)
        assert number > 2
        let_pass(notifier)
        assert ours.recv(5) == b"x"
        assert status(pid) == 7


def test_a_call_whose_thread_has_gone_is_pending_no_more():
    def work() -> int:
        socket.socket()
        return 0

    ours, theirs = socket.socketpair()
    with ours, theirs, supervised(work) as (notifier, pid):
        call = take(notifier)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not notifier.valid(call.id)
        assert not notifier.proceed(call.id)
        assert notifier.add_fd(call.id, theirs.fileno(), cloexec=False, send=True) == -1
        poller = select.poll()
        poller.register(notifier.fd, select.POLLIN)
        assert poller.poll(60_000)[0][1] & select.POLLHUP


def test_a_signal_takes_a_call_back():
    def work() -> int:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(5))
        socket.socket()
        return 0

    with supervised(work) as (notifier, pid):
        call = take(notifier)
        os.kill(pid, signal.SIGALRM)
        assert status(pid) == 5
        assert not notifier.valid(call.id)


def test_families_of_the_host_are_the_hosts():
    def work() -> int:
        a, b = socket.socketpair(socket.AF_UNIX)
        a.send(b"hello")
        return len(b.recv(9))

    with supervised(work) as (notifier, pid):
        let_pass(notifier)  # getsockname, by which Python finds out what it has
        assert status(pid) == 5


def test_a_second_listener_is_refused():
    def work() -> int:
        try:
            install(bpf.build(ABI))
        except OSError as problem:
            return problem.errno or 0
        return 0

    with supervised(work) as (_, pid):
        assert status(pid) == errno.EBUSY


def test_what_is_no_program_is_refused():
    pid = os.fork()
    if not pid:
        try:
            install(b"\xff" * 8)
        except OSError as problem:
            os._exit(problem.errno or 0)
        os._exit(0)
    assert status(pid) == errno.EINVAL
