"""The helpers that the other tests trust: the leak check sees each kind of leak, a namespace leaves nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from tests.support import leaks, netns


def test_nothing_is_reported_when_nothing_is_left() -> None:
    before = leaks.take()
    with closing(socket.socket()):
        pass
    thread = threading.Thread(target=bool)
    thread.start()
    thread.join()
    assert leaks.left_over(before) == []


def test_an_open_descriptor_is_reported_even_under_a_number_that_was_in_use() -> None:
    reader, writer = os.pipe()
    before = leaks.take()
    os.close(reader)
    os.close(writer)
    with socket.socket() as other:
        assert other.fileno() == reader
        (line,) = leaks.left_over(before, patience=0)
        assert line.startswith(f"descriptor {reader} is still open: socket:")


def test_a_running_thread_is_reported_but_for_the_runner() -> None:
    before = leaks.take()
    end = threading.Event()
    names = ["usernet-runner", "worker"]
    threads = [threading.Thread(target=end.wait, name=name, daemon=True) for name in names]
    for thread in threads:
        thread.start()
    try:
        assert leaks.left_over(before, patience=0) == ["thread 'worker' (daemon=True) still runs"]
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_a_child_process_is_reported_until_it_was_waited_for() -> None:
    before = leaks.take()
    child = subprocess.Popen([sys.executable, "-c", ""])
    lines = leaks.left_over(before, patience=0)
    child.wait()
    assert lines in ([f"child process {child.pid} was not waited for"], [])  # []: a kernel that doesn't list children
    assert leaks.left_over(before) == []


def test_only_a_living_runner_may_keep_its_epoll_and_its_eventfd() -> None:
    runner = threading.Thread(name="usernet-runner", daemon=True)
    epoll, eventfd, second = (7, "anon_inode:[eventpoll]"), (8, "anon_inode:[eventfd]"), (9, "anon_inode:[eventfd]")
    assert leaks.without_the_runners_own({epoll, eventfd, second}, frozenset({runner})) == {second}
    assert leaks.without_the_runners_own({epoll}, frozenset()) == {epoll}


@pytest.mark.interop
@netns.requires_root_netns
class TestNetns:
    def test_it_has_a_loopback_of_its_own_and_is_gone_afterwards(self) -> None:
        with netns.Netns("support") as peer:
            assert "LOOPBACK,UP" in peer.run("ip", "link").stdout
            with peer.entered():
                assert [name for _, name in socket.if_nameindex()] == ["lo"]
            assert os.path.exists(f"/run/netns/{peer.name}")
        assert not os.path.exists(f"/run/netns/{peer.name}")

    def test_a_socket_made_inside_stays_inside(self) -> None:
        with netns.Netns("support") as peer:
            with peer.entered():
                listener = socket.create_server(("127.0.0.1", 0))
            with listener, socket.socket() as outside:
                assert outside.connect_ex(listener.getsockname()) != 0
                assert f":{listener.getsockname()[1]}" in peer.run("ss", "-ltn").stdout

    def test_what_was_started_is_killed_with_what_it_started(self) -> None:
        with netns.Netns("support") as peer:
            peer.popen("sh", "-c", "sleep 1000 & setsid sleep 1000 & wait")
            netns.wait_until(lambda: len(peer.pids()) == 3, "the shell and its two children to start")
            pids = peer.pids()
        netns.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the processes to end")

    def test_a_failed_command_says_what_it_was_and_printed(self) -> None:
        with netns.Netns("support") as peer:
            with pytest.raises(netns.NetnsError, match=r"sh -c .*: exit status 3\nwhy"):
                peer.run("sh", "-c", "echo why; exit 3")
            assert peer.run("false", check=False).returncode == 1
