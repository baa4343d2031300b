"""The tools as functions, on hosts of a laboratory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from usernet.cli import tools
from usernet.lab import Lab
from usernet.net.dst import Dst
from usernet.stack import Stack
from usernet.transport.tcp.tcp import Tcp


def pair(lab: Lab, **cable: Any) -> tuple[Stack, Stack]:
    a, b = lab.hosts(2, **cable)
    lab.sleep(5)
    return a, b


def connect(lab: Lab, a: Stack, b: Stack):
    listener = b.socket()
    listener.bind(("", 80))
    listener.listen()
    client = a.socket()
    client.connect(("10.0.0.2", 80))
    server, _ = listener.accept()
    return listener, client, server


def test_ip_shows_what_there_is(lab: Lab):
    a, _ = pair(lab)
    mac = a.devices["eth0"].mac.hex(":")
    assert tools.ip(a, "addr", "show", "dev", "eth0").splitlines() == [
        "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP group default qlen 1000",
        f"    link/ether {mac} brd ff:ff:ff:ff:ff:ff",
        "    inet 10.0.0.1/24 brd 10.0.0.255 scope global eth0",
        "       valid_lft forever preferred_lft forever",
    ]
    assert tools.ip(a, "r") == "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1"
    assert tools.ip(a, "-br", "a").splitlines()[1] == "eth0             UP             10.0.0.1/24"
    assert "RX:" in tools.ip(a, "-s", "link")
    entry = json.loads(tools.ip(a, "-j", "addr", "show", "lo"))[0]
    assert (entry["ifname"], entry["addr_info"][0]["local"]) == ("lo", "127.0.0.1")
    assert tools.ip(a, "route", "get", "10.0.0.9").startswith("10.0.0.9 dev eth0 src 10.0.0.1")
    assert "local 10.0.0.1 dev eth0" in tools.ip(a, "route", "show", "table", "local")


def test_ip_changes_what_there_is(lab: Lab):
    a, _ = pair(lab)
    assert tools.ip(a, "addr", "add", "10.0.0.9/24", "dev", "eth0") == ""
    assert "10.0.0.9/24 brd 10.0.0.255 scope global secondary eth0" in tools.ip(a, "a")
    tools.ip(a, "addr", "del", "10.0.0.9/24", "dev", "eth0")
    tools.ip(a, "route", "add", "default", "via", "10.0.0.2", "metric", "5", "mtu", "1400")
    tools.ip(a, "route", "add", "blackhole", "10.9.0.0/16")
    assert tools.ip(a, "route").splitlines()[:2] == [
        "default via 10.0.0.2 dev eth0 metric 5 mtu 1400",
        "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1",
    ]
    assert "blackhole 10.9.0.0/16" in tools.ip(a, "route")
    tools.ip(a, "route", "replace", "default", "via", "10.0.0.3", "metric", "5")
    assert "default via 10.0.0.3 dev eth0 metric 5" in tools.ip(a, "route")
    tools.ip(a, "route", "del", "default")
    tools.ip(a, "link", "set", "eth0", "mtu", "1400", "address", "02:00:00:00:00:09", "name", "wan0")
    assert "wan0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400" in tools.ip(a, "link")
    tools.ip(a, "neigh", "add", "10.0.0.7", "lladdr", "02:00:00:00:00:07", "dev", "wan0")
    assert "10.0.0.7 dev wan0 lladdr 02:00:00:00:00:07 PERMANENT" in tools.ip(a, "neigh")
    tools.ip(a, "neigh", "del", "10.0.0.7", "dev", "wan0")
    tools.ip(a, "link", "set", "dev", "wan0", "down")
    assert "state DOWN" in tools.ip(a, "link", "show", "wan0")


def test_ip_route_shows_metrics_as_iproute2_does(lab: Lab):
    a, _ = pair(lab)
    text = (
        "10.1.1.0/24 dev eth0 scope link mtu lock 700 rtt 30ms rttvar 20ms ssthresh lock 33 cwnd 12 advmss 600"
        " hoplimit 7 features ecn rto_min lock 5ms initrwnd 3 quickack 1 congctl reno fastopen_no_cookie 1"
    )
    words = text.replace("scope link ", "").replace("rto_min lock 5ms", "rto_min 5ms")
    tools.ip(a, "route", "add", *words.split())
    assert text in tools.ip(a, "route").splitlines()
    entries = json.loads(tools.ip(a, "-j", "route"))
    metrics = next(entry["metrics"] for entry in entries if entry["dst"] == "10.1.1.0/24")
    assert metrics == [{
        "mtu": 700, "rtt": 30, "rttvar": 20, "ssthresh": 33, "cwnd": 12, "advmss": 600, "hoplimit": 7, "ecn": None,
        "rto_min": 5, "initrwnd": 3, "quickack": 1, "congestion": "reno", "fastopen_no_cookie": 1,
    }]  # fmt: skip


def test_ip_tcp_metrics(lab: Lab):
    a, _ = pair(lab)
    assert tools.ip(a, "tcp_metrics") == ""
    now = a.net.loop.now
    plain = Dst(None, b"", b"", None)
    one = a.net.get(Tcp).metrics.make(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), plain, now - 16_000_000)
    one.cwnd, one.rtt, one.rttvar, one.ssthresh, one.reordering = 18, 27 * 8, 22 * 4, 9, 5
    two = a.net.get(Tcp).metrics.make(bytes((10, 0, 0, 1)), bytes((192, 0, 2, 1)), plain, now)
    two.mss, two.cookie, two.syn_loss, two.last_syn_loss = 1460, bytes(range(8)), 2, now - 1_000_000_000
    lines = [
        "192.0.2.1 age 0.000sec fo_mss 1460 fo_syn_drops 2/1.000sec ago fo_cookie 0001020304050607 source 10.0.0.1",
        "10.0.0.2 age 0.016sec ssthresh 9 cwnd 18 reordering 5 rtt 27us rttvar 22us source 10.0.0.1",
    ]
    assert tools.ip(a, "tcp_metrics", "show").splitlines() == lines
    assert tools.ip(a, "tcp_metrics", "show", "10.0.0.0/8") == lines[1]
    assert tools.ip(a, "tcpmetrics", "list", "address", "192.0.2.1") == lines[0]
    assert tools.ip(a, "tcp_metrics", "show", "source", "10.0.0.0/24").splitlines() == lines
    assert tools.ip(a, "tcp_metrics", "show", "source", "10.0.1.0/24") == ""
    entries = json.loads(tools.ip(a, "-j", "tcp_metrics"))
    assert entries[0] == {
        "dst": "192.0.2.1", "age": 0.0, "fopen_miss": 1460, "fopen_syn_drops": 2, "fopen_syn_drop_ts": 1.0,
        "fo_cookie": "0001020304050607", "source": "10.0.0.1",
    }  # fmt: skip
    assert (entries[1]["rtt"], entries[1]["rttvar"], entries[1]["cwnd"]) == (2.7e-05, 2.2e-05, 18)
    assert tools.ip(a, "tcp_metrics", "delete", "10.0.0.2") == ""
    assert tools.ip(a, "tcp_metrics") == lines[0]
    for words in ("show 10.0.0.2", "delete 10.0.0.2", "flush 10.0.0.2"):
        with pytest.raises(OSError, match="No such process"):
            tools.ip(a, "tcp_metrics", *words.split())
    tools.ip(a, "tcp_metrics", "flush")
    assert tools.ip(a, "tcp_metrics") == ""


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("tcp_metrics get", "command"),
        ("tcp_metrics delete", "address"),
        ("tcp_metrics delete 10.0.0.0/8", "address"),
        ("tcp_metrics show ten", "address"),
        ("tcp_metrics show ::1", "address"),
        ("route add 1.2.3.0/24 dev eth0 features x", "features"),
        ("route add 1.2.3.0/24 dev eth0 rto_min x", "rto_min"),
        ("addr add 10.0.0.300/24 dev eth0", "address"),
        ("addr add 10.0.0.3/24", "dev"),
        ("addr add 10.0.0.3/24 dev eth7", "dev"),
        ("addr show eth7", "dev"),
        ("foo", "object"),
        ("addr frob", "command"),
        ("-x addr", "option"),
        ("route add 1.2.3.4/8 via 10.0.0.2", "destination"),
        ("route add 1.2.3.0/24 via 10.0.0.2 metric x", "metric"),
        ("route add 1.2.3.0/24 via ten", "via"),
        ("route add 1.2.3.0/24 over 10.0.0.2", "field"),
        ("link set eth0 mtu 5", "mtu"),
        ("link set eth0 up mtu 1400 address zz", "address"),
        ("link set eth0 address 03:00:00:00:00:01", "address"),
        ("link set eth0", "setting"),
        ("neigh add 10.0.0.2 dev eth0 lladdr zz", "lladdr"),
        ("neigh add 10.0.0.2 dev eth0", "lladdr"),
        ("route get x", "address"),
    ],
)
def test_ip_names_the_field_and_changes_nothing(lab: Lab, words, field):
    a, _ = pair(lab)
    before = [tools.ip(a, what) for what in ("addr", "route", "neigh")]
    with pytest.raises(tools.UsageError, match=rf"{field}: expected"):
        tools.ip(a, *words.split())
    assert [tools.ip(a, what) for what in ("addr", "route", "neigh")] == before


def test_ss_shows_connections(lab: Lab):
    a, b = pair(lab, delay=0.01)
    listener, client, server = connect(lab, a, b)
    datagram = b.socket(2, 2)
    datagram.bind(("10.0.0.2", 53))
    with listener, client, server, datagram:
        client.send(b"unread")
        lab.sleep(1)
        port = client.getsockname()[1]
        assert tools.ss(b, "-tn").splitlines()[1].split() == ["ESTAB", "6", "0", "10.0.0.2:80", f"10.0.0.1:{port}"]
        assert tools.ss(b, "-tl", "-H").split() == ["LISTEN", "0", "128", "0.0.0.0:80", "0.0.0.0:*"]
        assert tools.ss(b, "-ua").splitlines()[1].split() == ["UNCONN", "0", "0", "10.0.0.2:53", "0.0.0.0:*"]
        assert len(tools.ss(b, "-a").splitlines()) == 4
        inside = tools.ss(a, "-tinmp")
        for word in ("cubic", "rtt:", "cwnd:10", "mss:1448", "skmem:(", 'users:(("a"))', "bytes_acked:"):
            assert word in inside
        entries = json.loads(tools.ss(b, "-tj", "--info"))
        assert entries[0]["tcp_info"]["bytes_received"] == 6
        client.send(b"x")
        assert "timer:(on," in tools.ss(a, "-to")
        lab.sleep(1)
        assert server.recv(10) == b"unreadx"
    lab.sleep(1)
    assert "timer:(timewait,5" in tools.ss(a, "-tao") + tools.ss(b, "-tao")
    assert "timewait 1" in tools.ss(a, "-s") + tools.ss(b, "-s")
    with pytest.raises(tools.UsageError, match="-x"):
        tools.ss(a, "-x")


def test_ping(lab: Lab):
    a, _ = pair(lab, delay=0.01)
    shown: list[str] = []
    text = tools.ping(a, "-c", "2", "-i", "0.5", "10.0.0.2", out=shown.append)
    assert text.status == 0
    assert text.splitlines() == shown
    assert shown[0] == "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data."
    assert shown[2] == "64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=20.0 ms"
    assert shown[-2].startswith("2 packets transmitted, 2 received, 0% packet loss, time ")
    a.hosts["other"] = ["10.0.0.2"]
    assert "PING other (10.0.0.2) 1000(1028)" in tools.ping(a, "-c", "1", "-s", "1000", "-q", "other")


def test_ping_tells_of_errors_and_of_silence(lab: Lab):
    a, b, c = lab.hosts(3, delay=0.01)
    lab.sleep(5)
    text = tools.ping(a, "-c", "1", "-W", "5", "10.0.0.77")
    assert text.status == 1
    assert "From 10.0.0.1 icmp_seq=1 Destination Host Unreachable" in text
    assert "1 packets transmitted, 0 received, +1 errors, 100% packet loss" in text
    assert "From 10.0.0.2 icmp_seq=1 Time to live exceeded" in tools.ping(a, "-c", "1", "-t", "1", "10.0.1.2")
    tools.ip(b, "link", "set", "eth1", "down")
    tools.ip(b, "route", "add", "blackhole", "10.0.1.0/24")
    assert "1 packets transmitted, 0 received, 100% packet loss" in tools.ping(a, "-c", "1", "10.0.1.2")
    assert c.name == "c"
    for words, field in (("-c 0 10.0.0.2", "-c"), ("nowhere", "host"), ("", "host"), ("-s x 10.0.0.2", "-s")):
        with pytest.raises(tools.UsageError, match=field):
            tools.ping(a, *words.split())


@pytest.mark.parametrize("how", [(), ("-I",)])
def test_traceroute(lab: Lab, how):
    hosts = lab.hosts(4, delay=0.01)
    lab.sleep(5)
    text = tools.traceroute(hosts[0], *how, "-q", "1", "10.0.2.2")
    assert text.splitlines() == [
        "traceroute to 10.0.2.2 (10.0.2.2), 30 hops max, 60 byte packets",
        *(line for line in text.splitlines()[1:]),
    ]
    assert [line.split()[1] for line in text.splitlines()[1:]] == ["10.0.0.2", "10.0.1.2", "10.0.2.2"]
    assert text.status == 0
    hosts[3].set_down("eth0")
    lost = tools.traceroute(hosts[0], *how, "-q", "2", "-w", "0.1", "-f", "3", "-m", "3", "10.0.2.2")
    assert lost.splitlines()[1] == " 3  * *"
    assert lost.status == 1


def test_tcpdump_of_a_stack_and_of_a_file(lab: Lab, tmp_path: Path):
    a, b = pair(lab, delay=0.01)
    path = str(tmp_path / "a.pcapng")
    live = lab.spawn(tools.tcpdump, a, "-n", "-c", "3", "-i", "eth0", "tcp")
    written = lab.spawn(tools.tcpdump, a, "-w", path)
    lab.sleep(0)
    with (listener := connect(lab, a, b))[0], listener[1], listener[2]:
        lab.sleep(1)
    lab.join(live)
    lines = live.result().splitlines()
    assert len(lines) == 3
    assert "Flags [S]" in lines[0]
    assert "Flags [.], ack 1" in lines[2]
    assert not written.done
    lab.close()
    # Its task was ended while it wrote; what is in the file is whole.
    text = tools.tcpdump(None, "-nr", path, "-t", "tcp", "and", "dst", "port", "80")
    assert text.splitlines()[0].startswith("IP 10.0.0.1.")
    assert len(tools.tcpdump(None, "-r", path, "-c", "2").splitlines()) == 2
    assert "http: Flags" in tools.tcpdump(None, "-r", path, "tcp")


def test_tcpdump_tells_what_is_wrong(lab: Lab, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"no capture at all")
    with pytest.raises(tools.UsageError, match="-r: "):
        tools.tcpdump(None, "-r", str(broken))
    with pytest.raises(FileNotFoundError):
        tools.tcpdump(None, "-r", str(tmp_path / "none"))
    with pytest.raises(tools.UsageError, match="-r: expected"):
        tools.tcpdump(None)
    with pytest.raises(tools.UsageError, match="filter: port: expected"):
        tools.tcpdump(None, "-r", str(broken), "port", "x")
    with pytest.raises(tools.UsageError, match="-i: expected one of lo"):
        tools.tcpdump(lab.host(), "-i", "eth9")


def test_nc_carries_bytes_both_ways(lab: Lab):
    a, b = pair(lab, delay=0.01, loss=0.02)
    data = bytes(range(256)) * 400
    received = io.BytesIO()
    server = lab.spawn(
        lambda: tools.nc(b, "-l", "-p", "99", input=io.BytesIO(b"answer"), output=received, spawn=lab.spawn)
    )
    client = lab.spawn(lambda: tools.nc(a, "10.0.0.2", "99", input=io.BytesIO(data), spawn=lab.spawn))
    lab.run()
    assert received.getvalue() == data
    assert client.result() == "answer"
    assert server.result().status == 0


def test_nc_udp_timeout_and_refusal(lab: Lab):
    a, b = pair(lab, delay=0.01)
    server = lab.spawn(lambda: tools.nc(b, "-ul", "-p", "99", "-w", "3"))
    lab.sleep(0)
    tools.nc(a, "-u", "-w", "1", "10.0.0.2", "99", input=io.BytesIO(b"datagram"), spawn=lab.spawn)
    lab.run()
    assert server.result() == "datagram"
    shown: list[str] = []
    refused = tools.nc(a, "-v", "10.0.0.2", "77", out=shown.append)
    assert refused.status == 1
    assert "Connection refused" in shown[0]
    for words, field in (((), "host, port"), (("-l",), "-p"), (("10.0.0.2", "x"), "port"), (("nobody", "1"), "host")):
        with pytest.raises(tools.UsageError, match=field):
            tools.nc(a, *words)


def test_sysctl(lab: Lab):
    a = lab.host("a")
    assert tools.sysctl(a, "net.ipv4.ip_forward") == "net.ipv4.ip_forward = 0"
    assert tools.sysctl(a, "net/ipv4/ip_forward=1") == "net.ipv4.ip_forward = 1"
    assert tools.sysctl(a, "-n", "net.ipv4.ip_forward") == "1"
    assert "net.core.somaxconn" in tools.sysctl(a, "-a")
    assert len(tools.sysctl(a, "net.ipv4.tcp_").splitlines()) > 5
    assert json.loads(tools.sysctl(a, "-j", "net.ipv4.tcp_rmem"))["net.ipv4.tcp_rmem"][0] == 4096
    with pytest.raises(tools.UsageError, match="no sysctl"):
        tools.sysctl(a, "net.ipv4.nothing=1")
    with pytest.raises(tools.UsageError, match="ip_default_ttl"):
        tools.sysctl(a, "net.ipv4.ip_forward=0", "net.ipv4.ip_default_ttl=9999")
    assert tools.sysctl(a, "-n", "net.ipv4.ip_forward") == "1"
    with pytest.raises(tools.UsageError, match="name"):
        tools.sysctl(a)


def test_nstat(lab: Lab):
    a, _ = pair(lab)
    tools.ping(a, "-c", "1", "10.0.0.2")
    assert "IcmpOutEchos                    1               0.0" in tools.nstat(a)
    assert tools.nstat(a, "Udp*") == "#kernel"
    assert "UdpInDatagrams" in tools.nstat(a, "-z", "Udp*")
    assert json.loads(tools.nstat(a, "-j"))["kernel"]["IcmpInEchoReps"] == 1
