"""Descriptors of other processes, here of this one's children and of itself."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from tests.support.compiled import interpreted_only
from usernet.netd.supervisor import process
from usernet.netd.supervisor.process import PidFd, Threads, close_on_exec


def test_a_duplicate_of_a_descriptor():
    read, write = os.pipe()
    pidfd = PidFd(os.getpid())
    copy = pidfd.get_fd(read)
    assert os.fstat(copy).st_ino == os.fstat(read).st_ino
    with pytest.raises(OSError) as caught:
        pidfd.get_fd(100_000)
    assert caught.value.errno == errno.EBADF
    for fd in (copy, read, write):
        os.close(fd)


def test_a_thread_that_is_not_the_first():
    found: list[int] = []
    done = threading.Event()

    def live() -> None:
        found.append(threading.get_native_id())
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    while not found:
        pass
    pidfd = PidFd(found[0])
    os.close(pidfd.get_fd(0))
    done.set()
    thread.join()


def test_the_process_of_a_thread():
    assert process.group_of(os.getpid()) == os.getpid()
    with pytest.raises(ProcessLookupError):
        process.group_of(1 << 30)


def test_one_that_is_gone():
    pid = os.fork()
    if not pid:
        os._exit(0)
    pidfd = PidFd(pid)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        pidfd.get_fd(0)
    with pytest.raises(ProcessLookupError):
        PidFd(1 << 30)


@interpreted_only
def test_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "THREADS_MAX", 2)
    threads = Threads()
    pids = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            os._exit(0)
        pids.append(pid)
        threads.of(pid)
    assert list(threads._known) == pids[1:]
    assert threads.of(pids[1]) is threads.of(pids[1])
    threads.clear()
    for pid in pids:
        os.waitpid(pid, 0)


def test_close_on_exec():
    read, write = os.pipe()
    assert close_on_exec(os.getpid(), read)
    os.set_inheritable(read, True)
    assert not close_on_exec(os.getpid(), read)
    assert not close_on_exec(os.getpid(), 100_000)
    os.close(read)
    os.close(write)
