"""The three files by which a command looks up names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from usernet.netd.supervisor import resolve
from usernet.netd.supervisor.resolve import NameFiles, nsswitch


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("hosts: files mymachines resolve [!UNAVAIL=return] dns myhostname\n", "hosts: files dns\n"),
        ("passwd: files systemd\n  hosts:\tfiles\nservices: db files\n",
         "passwd: files systemd\nhosts: files dns\nservices: db files\n"),
        ("hosts: dns", "hosts: files dns\n"),
        ("passwd: files", "passwd: files\nhosts: files dns\n"),
        ("# hosts: nis\npasswd: files\n", "# hosts: nis\npasswd: files\nhosts: files dns\n"),
    ],
)  # fmt: skip
def test_nsswitch_keeps_all_but_hosts(before, after):
    assert nsswitch(before) == after


def test_hosts():
    files = NameFiles({"a.test": ["10.0.0.1", "10.0.0.2"], "b.test": ["10.0.0.1"], "localhost": ["127.0.0.1"]}, [])
    assert files.hosts == "127.0.0.1\tlocalhost\n10.0.0.1\ta.test b.test\n10.0.0.2\ta.test\n"
    machine = os.uname().nodename
    assert NameFiles({}, [], own=["10.0.0.9", "10.0.0.8"]).hosts == f"127.0.0.1\tlocalhost\n10.0.0.9\t{machine}\n"
    # Somebody says where the machine's name leads to.
    assert NameFiles({machine: ["10.0.0.7"]}, [], own=["10.0.0.9"]).hosts.split().count(machine) == 1


def test_resolv_conf():
    files = NameFiles({}, ["10.0.0.53", "10.0.0.54:54"], ["a.test", "b.test"], ["ndots:2"])
    assert files.resolv_conf == "nameserver 10.0.0.53\nsearch a.test b.test\noptions ndots:2\n"
    assert files.problems == ["nameserver 10.0.0.54:54: resolv.conf has no port but 53"]


def test_they_can_be_read_by_everyone(tmp_path: Path):
    placed = NameFiles({}, ["10.0.0.53"]).write(str(tmp_path))
    assert {resolve.RESOLV_CONF, resolve.HOSTS} <= set(placed)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    for path in [*placed.values(), str(tmp_path / resolve.EMPTY)]:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert Path(placed[resolve.RESOLV_CONF]).read_text() == "nameserver 10.0.0.53\n"


def test_the_hosts_nameservers(monkeypatch):
    text = "# one\nnameserver 127.0.0.53\nnameserver 10.0.0.53\nnameserver\nnameserver x\nnameserver ::1\nsearch a\n"
    monkeypatch.setattr(resolve, "_read", lambda path: text)
    assert resolve.host_nameservers() == ["10.0.0.53"]
    assert resolve.host_nameservers(loopback=True) == ["127.0.0.53", "10.0.0.53", "::1"]
    monkeypatch.setattr(resolve, "_read", lambda path: "")
    # Without any, the C library asks the loopback's.
    assert resolve.host_nameservers() == []
    assert resolve.host_nameservers(loopback=True) == ["127.0.0.1"]
