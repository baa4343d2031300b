from __future__ import annotations

from pathlib import Path

import pytest

from tests.packetdrill.fake import BOOT, FakeShell, FakeTarget
from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.sh_commands import Commands
from usernet.packetdrill.shell import ADD, CHANGE, DELETE, REPLACE, QdiscChange, RouteChange


def make(directory: str = "/nowhere") -> tuple[Commands, FakeShell]:
    shell = FakeTarget().shell()
    return Commands(shell, directory), shell


def test_sysctl():
    commands, shell = make()
    result = commands.run("sysctl -q net.ipv4.tcp_ecn=1 net/ipv4/tcp_sack=0\nsysctl -w net.ipv4.tcp_wmem='1 2 3'")
    assert (result.status, result.errors) == (0, "")
    assert result.output == "net.ipv4.tcp_wmem = 1 2 3\n"
    assert (shell.sysctls["net.ipv4.tcp_ecn"], shell.sysctls["net.ipv4.tcp_sack"]) == ("1", "0")
    assert commands.run("sysctl -n net.ipv4.tcp_ecn").output == "1\n"
    shell.known = {"net.ipv4.tcp_sack"}
    result = commands.run("sysctl -q net.ipv4.nosuch=1 net.ipv4.tcp_sack=1")
    assert (result.status, result.errors) == (255, "sysctl: net.ipv4.nosuch: No such file or directory\n")
    assert shell.sysctls["net.ipv4.tcp_sack"] == "1"


def test_set_sysctls_remembers_what_was():
    commands, shell = make()
    commands.run('../common/set_sysctls.py /proc/sys/net/ipv4/tcp_timestamps=0 /proc/sys/net/ipv4/tcp_wmem="1 2 3"')
    assert (shell.sysctls["net.ipv4.tcp_timestamps"], shell.sysctls["net.ipv4.tcp_wmem"]) == ("0", "1 2 3")
    assert commands.run("/tmp/sysctl_restore_${PPID}.sh").status == 0
    assert shell.sysctls["net.ipv4.tcp_timestamps"] == "1"
    assert shell.sysctls["net.ipv4.tcp_wmem"] == "4096\t16384\t4194304"
    shell.known = set()
    assert commands.run("set_sysctls.py /proc/sys/net/ipv4/nosuch=0").status == 1


def test_defaults_come_from_the_corpus_or_from_here(tmp_path: Path):
    commands, shell = make()
    assert commands.run("../common/defaults.sh").status == 0
    assert shell.sysctls["net.ipv4.tcp_rmem"] == "4096 540000 15728640"
    assert shell.sysctls["net.ipv4.tcp_fastopen"] == "0x70403"
    assert shell.actions == [("metrics_flush", ""), QdiscChange(ADD, "tun0", "root", "pfifo")]
    (tmp_path / "defaults.sh").write_text(
        "#!/bin/bash\n# A comment\nip tcp_metrics flush all > /dev/null 2>&1\n"
        'sysctl -q net.ipv4.tcp_rmem="4096 1 $((2*1024))"\nsysctl -q net.ipv4.tcp_fastopen=0x3\n'
    )
    commands, shell = make(str(tmp_path))
    assert commands.run("./defaults.sh\nsysctl -q net.ipv4.tcp_ecn=1").status == 0
    assert (shell.sysctls["net.ipv4.tcp_rmem"], shell.sysctls["net.ipv4.tcp_fastopen"]) == ("4096 1 2048", "0x3")
    assert shell.actions == [("metrics_flush", "")]


def test_a_script_that_is_missing_and_one_that_calls_itself(tmp_path: Path):
    commands, _ = make(str(tmp_path))
    assert commands.run("./other.sh").status == 127
    (tmp_path / "a.sh").write_text("./a.sh")
    with pytest.raises(BadEvent, match="called by itself"):
        commands.run("./a.sh")


def test_files_of_the_system():
    commands, shell = make()
    commands.run(
        "echo 2 > /sys/module/tcp_cubic/parameters/hystart_detect\necho '4 5 6' > /proc/sys/net/ipv4/tcp_rmem\n"
        "/bin/dd bs=2 count=3 if=/dev/zero of=/tmp/f status=none\necho a > /tmp/g\n/bin/rm -f /tmp/g"
    )
    assert shell.parameters["tcp_cubic", "hystart_detect"] == "2"
    assert shell.sysctls["net.ipv4.tcp_rmem"] == "4 5 6"
    assert shell.files == {"/tmp/f": bytes(6)}
    assert commands.run("cat /sys/module/tcp_cubic/parameters/hystart_detect").output == "2\n"
    assert commands.run("cat /proc/sys/net/ipv4/tcp_rmem | grep -c 5").output == "1\n"
    commands.run("echo a > /tmp/h; echo b >> /tmp/h")
    assert shell.files["/tmp/h"] == b"a\nb\n"
    for text in ("echo 1 > /etc/x", "echo 1 > /sys/module/x/parameters/y", "cat /etc/x", "dd if=/etc/x of=/tmp/x"):
        assert commands.run(text).status != 0


@pytest.mark.parametrize(
    ("text", "change"),
    [
        (
            "ip route change 192.0.2.1 via 192.168.0.2 dev tun0 advmss 600 mtu lock 640 initcwnd 11",
            RouteChange(CHANGE, 4, "192.0.2.1", "192.168.0.2", "tun0",
                        metrics={"advmss": 600, "mtu": 640, "initcwnd": 11}, locked={"mtu"}),
        ),
        (
            "ip -6 route replace 2001:DB8::/32 via fd3d::1 dev tun0 congctl lock bbr quickack 1 rto_min 40ms",
            RouteChange(REPLACE, 6, "2001:DB8::/32", "fd3d::1", "tun0", metrics={"quickack": 1, "rto_min": 40},
                        locked={"congctl"}, congctl="bbr"),
        ),
        (
            "ip ro add default via 10.0.0.1 src 10.0.0.2 table 7 features ecn proto static",
            RouteChange(ADD, 4, "default", "10.0.0.1", source="10.0.0.2", table="7", metrics={"features": 1}),
        ),
        ("ip route del to 10.0.0.0/8", RouteChange(DELETE, 4, "10.0.0.0/8")),
    ],
)
def test_ip_route(text: str, change: RouteChange):
    commands, shell = make()
    result = commands.run(text)
    assert (result.status, result.errors) == (0, "")
    assert shell.actions == [change]


def test_ip_link_tcp_metrics_and_ethtool():
    commands, shell = make()
    assert commands.run(
        "ip link set dev tun0 mtu 1400 up\nip tcp_metrics delete 10.0.0.1\nethtool -K tun0 tso off gso on"
    ).status == 0
    assert shell.actions == [
        ("tun0", {"mtu": "1400", "state": "up"}), ("metrics_flush", "10.0.0.1"), ("tun0", {"tso": False, "gso": True}),
    ]
    assert commands.run("ip tcp_metrics show | grep -c age").output == "1\n"
    assert commands.run("ip tcp_metrics show 10.0.0.1").output == "10.0.0.1 age 0.000sec\n"


def test_tc():
    commands, shell = make()
    text = "tc qdisc delete dev tun0 root 2>/dev/null ; tc qdisc add dev tun0 root handle 1: pfifo limit 0"
    result = commands.run(text)
    assert (result.status, result.errors) == (0, "")
    assert shell.actions == [QdiscChange(ADD, "tun0", "root", "pfifo", "1:", ["limit", "0"])]
    assert commands.run("tc qdisc del dev tun0 root").errors.startswith("tc: No such file or directory")


def test_nstat_shows_what_grew():
    commands, shell = make()
    shell.mib = {"TcpExtBeyondWindow": 1, "TcpInSegs": 0}
    first = commands.run("nstat").output
    assert first.splitlines() == ["#kernel", "TcpExtBeyondWindow              1                  0.0"]
    assert commands.run("nstat | grep TcpExtBeyondWindow").status == 1
    shell.mib = {"TcpExtBeyondWindow": 3, "TcpInSegs": 5}
    assert commands.run('nstat | grep TcpExtBeyondWindow | grep -q " 2 "').status == 0
    shell.mib = {"TcpExtBeyondWindow": 4, "TcpInSegs": 6}
    assert commands.run("nstat -n").output == ""
    assert commands.run("nstat").output == "#kernel\n"
    assert "TcpInSegs" in commands.run("nstat -a Tcp*").output
    assert commands.run("nstat -z | grep -c Tcp").output == "2\n"


def test_sleep_moves_the_stacks_clock():
    target = FakeTarget()
    Commands(target.shell(), ".").run("sleep 0.25; usleep 1000; sleep 1ms")
    assert target.now() - BOOT == 252_000_000


@pytest.mark.parametrize(
    "text",
    [
        "ip", "ip addr show", "ip -x route add 1.1.1.1", "ip route show", "ip route add", "ip route add 1.1.1.1 mtu x",
        "ip route add 1.1.1.1 2.2.2.2", "ip route add 1.1.1.1 features x", "ip route add 1.1.1.1 mtu",
        "ip tcp_metrics get", "ip tcp_metrics delete",
        "ip link set", "ip link set tun0 foo", "tc class add", "tc qdisc add root pfifo", "ethtool -i tun0",
        "ethtool -K tun0 tso maybe", "grep", "grep '(' a", "grep '(' ", "sleep x", "dd if=/dev/zero of=/tmp/x bs=y",
        "dd if=/dev/zero of=/tmp/x bs=1M count=9999", "false",
    ],
)
def test_arguments_that_cant_be_understood_fail(text: str):
    commands, shell = make()
    assert commands.run(text).status != 0
    assert not shell.actions and not shell.files


def test_a_command_that_is_not_known_is_said():
    with pytest.raises(BadEvent, match="found the shell command 'iptables', expected one of"):
        make()[0].run("sysctl -q a=1; iptables -F || true")


def test_exit_ends_the_script_that_it_is_in(tmp_path: Path):
    (tmp_path / "a.sh").write_text("sysctl -q a=1\nexit 3\nsysctl -q a=2")
    commands, shell = make(str(tmp_path))
    assert commands.run("./a.sh || sysctl -q b=$?; false; exit").status == 1
    assert (shell.sysctls["a"], shell.sysctls["b"]) == ("1", "3")


def test_conditions_and_files():
    commands, shell = make()
    shell.mib = {"TcpExtBeyondWindow": 3, "TcpInSegs": 5, "IpExtInOctets": 7, "IpInReceives": 9, "TcpOutSegs": 6}
    assert commands.run(
        'if [ "$(sysctl -n net.ipv4.tcp_timestamps)" = 1 ]; then sysctl -q c=1; else sysctl -q c=2; fi\n'
        "for name in d e; do sysctl -q $name=$((2 + 2)); done; cat < /proc/sys/c > /tmp/c; cat /tmp/c"
    ).output == "1\n"
    assert (shell.sysctls["c"], shell.sysctls["d"], shell.sysctls["e"]) == ("1", "4", "4")
    assert commands.run("cat /proc/net/snmp").output == "Ip: InReceives\nIp: 9\nTcp: InSegs OutSegs\nTcp: 5 6\n"
    netstat = "TcpExt: BeyondWindow\nTcpExt: 3\nIpExt: InOctets\nIpExt: 7\n"
    assert commands.run("cat /proc/net/netstat").output == netstat


def test_variables():
    commands, shell = make()
    assert commands.run("X=7\nsysctl -q a=$X\nY=1 sysctl -q b=2").status == 0
    assert shell.sysctls["b"] == "2"
