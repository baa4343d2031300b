"""The configuration: what it may say, and what is told where it is wrong; the stacks that are made of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from usernet.netd import build, config
from usernet.netd.table import ConfigError
from usernet.runner import close_process_runner

GOOD = """
[stack.left]
nameservers = ["10.0.0.53", "10.0.0.54:5353"]
search = ["test"]
hosts = { "db.test" = ["10.0.0.9"] }
grace = 1

[stack.left.devices.eth0]
driver = "veth"
peer = "right.eth0"
addresses = ["10.0.0.1/24", "10.0.0.11/24"]
mtu = 9000
mac = "02:00:00:00:00:07"
loss = 0.1
delay = 0.001
seed = 7

[[stack.left.routes]]
destination = "default"
via = "10.0.0.2"
metric = 5

[[stack.left.routes]]
destination = "10.9.0.0/16"
type = "blackhole"

[stack.left.sysctl]
net.ipv4.ip_forward = 1
"net.ipv4.tcp_rmem" = [4096, 65536, 1000000]
"net.ipv4.conf.eth0.forwarding" = 1

[stack.left.access]
mode = 0o660
control = "all"

[stack.left.quota]
sockets = 100
memory = "64M"

[stack.right.devices.eth0]
driver = "veth"
peer = "left.eth0"
addresses = ["10.0.0.2/24"]
"""


def test_a_whole_configuration():
    read = config.read(tomllib.loads(GOOD))
    left = read.stacks["left"]
    assert (left.mode, left.open_control, left.sockets, left.memory, left.grace) == (0o660, True, 100, 64 << 20, 1.0)
    stacks = build.make(read)
    try:
        stack = stacks["left"]
        assert stack.addresses("eth0") == ["10.0.0.1/24", "10.0.0.11/24"]
        assert stack.devices["eth0"].mtu == 9000
        assert stack.sysctl["net.ipv4.tcp_rmem"] == (4096, 65536, 1000000)
        assert stack.hosts == {"db.test": ["10.0.0.9"]}
        assert stack.nameservers == ["10.0.0.53", "10.0.0.54:5353"]
        sock = stack.socket(2, 2, 1)
        sock.settimeout(5)
        sock.connect(("10.0.0.2", 0))
        for _ in range(20):
            sock.send(b"\x08\0\0\0\0\0\0\0")
        assert sock.recv(100)[0] == 0
        sock.close()
    finally:
        for stack in stacks.values():
            stack.close()
        close_process_runner()


DEVICE = '[stack.a.devices.eth0]\ndriver = "tap"\naddresses = ["10.0.0.1/24"]\n'

BACK = '[stack.b.devices.e]\ndriver = "veth"\npeer = "a.e"\n'

WRONG = [
    ("", "stack: expected at least one"),
    ("stack = 5", "stack: expected a table, not 5"),
    ("[stack.a]\nfoo = 1", "stack.a.foo: there is no such setting; expected one of devices"),
    ("[other]", "other: there is no such setting"),
    ('[stack."a b"]', "stack.a b: expected a name"),
    (DEVICE + "mtu = 12", "stack.a.devices.eth0.mtu: expected 68 to 65521, not 12"),
    (DEVICE + "mtu = true", "stack.a.devices.eth0.mtu: expected a whole number, not True"),
    (DEVICE + 'colour = "red"', "stack.a.devices.eth0.colour: there is no such setting"),
    (DEVICE + 'mac = "01:02"', "stack.a.devices.eth0.mac: expected a MAC address"),
    (DEVICE + 'mac = "01:00:00:00:00:01"', "stack.a.devices.eth0: "),
    (DEVICE + "loss = 0.1", "stack.a.devices.eth0.loss: there is no such setting"),
    ('[stack.a.devices.eth0]\ndriver = "ne2000"', "driver: expected one of tap, tun, veth, not 'ne2000'"),
    ("[stack.a.devices.eth0]", "driver: expected a string, and it is missing"),
    ('[stack.a.devices.lo]\ndriver = "tap"', "stack.a.devices.lo: every stack has a device lo"),
    ('[stack.a.devices.eth0]\ndriver = "tap"\naddresses = ["10.0.0.1"]', "addresses: expected something like"),
    ('[stack.a.devices.eth0]\ndriver = "tap"\naddresses = ["10.0.0.1/24", "10.0.0.1/8"]', "10.0.0.1/8 overlaps"),
    (
        DEVICE + '[stack.a.devices.eth1]\ndriver = "tap"\naddresses = ["10.0.5.1/8"]',
        "stack.a.devices.eth1.addresses: 10.0.5.1/8 overlaps 10.0.0.1/24 of device eth0",
    ),
    (DEVICE + 'host-address = "10.0.0.1/24"', "host-address: 10.0.0.1 is an address of the stack's own"),
    (DEVICE + '[stack.b.devices.x]\ndriver = "tun"\nhost = "eth0"', "stack.b.devices.x.host: the host's interface"),
    (DEVICE + '[[stack.a.routes]]\ndestination = "10.1.0.0/16"\ndev = "eth9"', "routes[0].dev: there is no device"),
    (DEVICE + '[[stack.a.routes]]\ndestination = "10.1.0.1/16"\ndev = "eth0"', "destination: expected default"),
    (DEVICE + '[[stack.a.routes]]\ndestination = "default"', "routes[0]: expected a gateway (via), a device"),
    (DEVICE + '[[stack.a.routes]]\ndestination = "default"\nvia = "10.9.9.9"', "routes[0]: default via 10.9.9.9: "),
    ('[stack.a.sysctl]\n"net.ipv4.tcp_foo" = 1', "stack.a.sysctl: there is no sysctl 'net.ipv4.tcp_foo'"),
    ('[stack.a.sysctl]\n"net.core.somaxconn" = -1', "stack.a.sysctl: net.core.somaxconn: expected 0 to"),
    ('[stack.a.sysctl]\n"net.ipv4.tcp_sack" = 1.5', "expected a number, a string or a row of numbers"),
    ("[stack.a.access]\nmode = 0o1777", "stack.a.access.mode: expected 0o0 to 0o777"),
    ('[stack.a.access]\ncontrol = "nobody"', "stack.a.access.control: expected one of owner, all"),
    ('[stack.a.quota]\nmemory = "much"', "stack.a.quota.memory: expected a size"),
    ("[stack.a.quota]\nsockets = 0", "stack.a.quota.sockets: expected 1 to"),
    ('[stack.a]\nhosts = { "x" = ["::1"] }', "stack.a.hosts.x: expected an IPv4 address, not '::1'"),
    ('[stack.a]\nnameservers = ["10.0.0.1:99999"]', "stack.a.nameservers: expected something like 10.0.0.53"),
    ('[stack.a]\nsocket = "/x"\n[stack.b]\nsocket = "/x"', "stack.b.socket: /x is that of stack.a"),
    ('[stack.a.devices.e]\ndriver = "veth"\npeer = "b.e"', "devices.e.peer: there is no device 'e' of a stack 'b'"),
    ('[stack.a.devices.e]\ndriver = "veth"\npeer = "e"', "stack.a.devices.e.peer: expected STACK.DEVICE"),
    (
        '[stack.a.devices.e]\ndriver = "veth"\npeer = "b.e"\n[stack.b.devices.e]\ndriver = "tap"',
        "b.e is no veth whose peer is a.e",
    ),
    (
        '[stack.a.devices.e]\ndriver = "veth"\npeer = "b.e"\nloss = 0.1\n' + BACK + "loss = 0.2",
        "loss is for one end of the cable to say",
    ),
    ('[stack.a.devices.e]\ndriver = "veth"\npeer = "b.e"\nloss = 2', "stack.a.devices.e.loss: expected 0 to 1, not 2"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[told[:50] for _, told in WRONG])
def test_what_is_wrong_is_told_with_its_place(text: str, told: str):
    with pytest.raises(ConfigError) as caught:
        build.check(config.read(tomllib.loads(text)))
    assert told in str(caught.value)
    assert str(caught.value).startswith("usernet.toml: ")


def test_files_that_are_none(tmp_path: Path):
    path = tmp_path / "usernet.toml"
    path.write_text("[stack.a\n")
    with pytest.raises(ConfigError, match="line 1"):
        config.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        config.load(path)
    with pytest.raises(FileNotFoundError):
        config.load(tmp_path / "missing.toml")


def test_a_device_that_the_host_does_not_give_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    def refuse(device: object) -> object:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(build, "_host_driver", refuse)
    text = GOOD + '[stack.right.devices.eth1]\ndriver = "tap"\naddresses = ["10.5.0.1/24"]\n'
    with pytest.raises(ConfigError, match="ip tuntap add eth1 mode tap user"):
        build.make(config.read(tomllib.loads(text)))
    close_process_runner()
