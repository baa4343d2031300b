from __future__ import annotations

import struct

import pytest

from tests.packetdrill.fake import BOOT, LOCAL_PORT, MS, SEC, FakeTarget
from usernet.packetdrill.ast import TOS_BYTE, IpInfo
from usernet.packetdrill.config import configure
from usernet.packetdrill.errors import ScriptError, ScriptFailure
from usernet.packetdrill.parser import parse
from usernet.packetdrill.runner import Runner
from usernet.wire import tcp

LISTEN = """\
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
"""
SERVER = LISTEN + """\
   +0 < S 0:0(0) win 1000 <mss 1000>
   +0 > S. 0:0(0) ack 1 <mss 1460>
  +.1 < . 1:1(0) ack 1 win 1000
   +0 accept(3, ..., ...) = 4
"""


def run(text: str, target: FakeTarget | None = None, **options: str | None) -> tuple[Runner, FakeTarget]:
    target = target or FakeTarget()
    script = parse(text, "test.pkt")
    runner = Runner(script, configure(script.options, script.path, script.text, overrides=options), target)
    runner.run()
    assert target.closed == 1
    return runner, target


def failure(text: str, target: FakeTarget | None = None, **options: str | None) -> ScriptFailure:
    target = target or FakeTarget()
    with pytest.raises(ScriptFailure) as caught:
        run(text, target, **options)
    assert target.closed == 1
    return caught.value


def bad(text: str, target: FakeTarget | None = None) -> ScriptError:
    target = target or FakeTarget()
    with pytest.raises(ScriptError) as caught:
        run(text, target)
    assert target.closed == 1
    return caught.value


def test_a_server_receives_and_sends():
    runner, target = run(
        SERVER
        + """\
   +0 < P. 1:101(100) ack 1 win 1000
   +0 > . 1:1(0) ack 101
   +0 read(4, ..., 4096) = 100
   +0 write(4, ..., 1000) = 1000
   +0 > P. 1:1001(1000) ack 101
  +.2 < . 101:101(0) ack 1001 win 1000
   +0 close(4) = 0
   +0 > F. 1001:1001(0) ack 101
"""
    )
    assert target.now() - BOOT == 300 * MS
    # The script's numbers went out as the wire's: the fake's initial sequence number is 256 before the wrap.
    assert target.injected[-1][0].ack == (0xFFFFFF00 + 1001) & 0xFFFFFFFF
    assert runner.log[5] == "0.000000 > S. 0:0(0) ack 1 win 500 <mss 1460>"
    assert runner.log[-1].startswith("0.300000 > F. 1001:1001(0) ack 101")


def test_a_client_connects_and_blocks_while_it_does():
    _, target = run(
        """\
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 4
  +.1...0.2 connect(4, ..., ...) = 0
   +0 > S 0:0(0) <mss 1460>
  +.1 < S. 77:77(0) ack 1 win 1000 <mss 1000>
   +0 > . 1:1(0) ack 1
"""
    )
    syn_ack = target.injected[0][0]
    assert (syn_ack.seq, syn_ack.ack, syn_ack.destination_port) == (77, 0xFFFFFF01, LOCAL_PORT)


def test_a_blocking_accept_returns_in_the_midst_of_later_events():
    run(
        LISTEN
        + """\
   +0...0.200 accept(3, ..., ...) = 4
  +.1 < S 0:0(0) win 1000 <mss 1000>
   +0 > S. 0:0(0) ack 1 <mss 1460>
  +.1 < . 1:1(0) ack 1 win 1000
  +.1 write(4, ..., 10) = 10
   +0 > P. 1:11(10) ack 1
"""
    )


def test_a_blocking_call_that_returns_at_another_time():
    found = failure(
        LISTEN
        + """\
   +0...0.400 accept(3, ..., ...) = 4
  +.1 < S 0:0(0) win 1000 <mss 1000>
   +0 > S. 0:0(0) ack 1 <mss 1460>
   +0 < . 1:1(0) ack 1 win 1000
"""
    )
    assert found.line == 5
    assert "expected return of accept() at 0.400000 s, but it was at 0.100000 s" in found.message


def test_a_blocking_call_that_never_returns():
    found = failure(LISTEN + "   +0...0.1 accept(3, ..., ...) = 4\n")
    assert found.line == 5
    assert "accept(): expected it to return, but it still waits at the end" in found.message


def test_a_call_that_waits_though_it_is_not_said_to_moves_the_clock():
    found = failure(LISTEN + "+0 accept(3, ..., ...) = 4\n")
    assert "accept(): expected it to return, but it still waits at 3600.000000 s" in found.message


def test_a_call_behind_a_blocking_one_waits_a_second_for_it():
    found = failure(LISTEN + "+0...9 accept(3, ..., ...) = 4\n+0 close(3) = 0\n")
    assert "at 0.000000 s, but it was at 1.000000 s" in found.message


def test_time_stamps_are_translated_both_ways():
    text = LISTEN + """\
   +0 < S 0:0(0) win 1000 <mss 1000,sackOK,TS val 10 ecr 0,nop,nop>
   +0 > S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 100 ecr 10>
  +.1 < . 1:1(0) ack 1 win 1000 <nop,nop,TS val 11 ecr 100>
   +0 accept(3, ..., ...) = 4
   +0 < . 1:11(10) ack 1 win 1000 <nop,nop,TS val 12 ecr 100>
   +0 > . 1:1(0) ack 11 <nop,nop,TS val {val} ecr 12>
   +0 < . 11:21(10) ack 1 win 1000 <nop,nop,TS val 12 ecr {ecr}>
"""
    # Pad the SYN's options to four bytes: mss 4, sackOK 2, TS 10, two NOPs make 18, so leave them out.
    text = text.replace(",nop,nop>\n   +0 > S.", ">\n   +0 > S.")
    _, target = run("--tcp_ts_tick_usecs=1000\n" + text.format(val=200, ecr=200))
    stamp = target.injected[-1][0].time_stamp()
    assert stamp == (12, (BOOT + 100 * MS) // MS + 5_000_000)
    found = failure("--tcp_ts_tick_usecs=1000\n" + text.format(val=250, ecr=250))
    assert "TCP option 2: expected TS val 250 ecr 12, came TS val 200 ecr 12" in found.message
    run(text.format(val=250, ecr=250))  # without ticks any value will do
    assert "found TS ecr 300, expected a TS val of a packet sent before" in bad(text.format(val=200, ecr=300)).message
    _, target = run("--tcp_ts_ecr_scaled\n" + text.format(val=200, ecr=300))
    assert target.injected[-1][0].time_stamp() == (12, BOOT // MS + 200 + 5_000_000)


def test_a_row_of_packets_stands_for_one():
    text = SERVER + "+0 write(4, ..., 2500) = 2500\n+0 > P. 1:2501(2500) ack 1\n"
    run(text, FakeTarget(mss=1000))
    found = failure("--strict_segments\n" + text, FakeTarget(mss=1000))
    assert "TCP payload length: expected 2500, came 1000" in found.message
    found = failure(text.replace("P. 1:2501(2500)", "P. 1:2401(2400)"), FakeTarget(mss=1000))
    assert "TCP payload length: expected 2400, came 2500" in found.message
    assert [line.split(" > ")[1] for line in found.message.splitlines()[2:]] == [
        "P. 1:2401(2400) ack 1", ". 1:1001(1000) ack 1 win 500", ". 1001:2001(1000) ack 1 win 500",
        "P. 2001:2501(500) ack 1 win 500",
    ]
    found = failure(text.replace("P. 1:2501(2500)", "P. 1:3001(3000)"), FakeTarget(mss=1000))
    assert "TCP payload length: expected 1000, came 500" in found.message


def test_a_packet_that_differs_is_shown_beside_the_expected_one():
    found = failure(SERVER + "+0 write(4, ..., 10) = 10\n+0 > P. 1:11(10) ack 2 win 600 <nop,nop,sack 1:2>\n")
    assert found.line == 10
    assert found.message.splitlines() == [
        "another packet than expected:",
        "  TCP ack: expected 2, came 1",
        "  TCP win: expected 600, came 500",
        "  TCP option 0: expected nop, came none",
        "  TCP option 1: expected nop, came none",
        "  TCP option 2: expected sack 1:2, came none",
        "  expected: 0.100000 > P. 1:11(10) ack 2 win 600 <nop,nop,sack 1:2>",
        "  came:     0.100000 > P. 1:11(10) ack 1 win 500",
    ]


def test_a_packet_that_never_comes():
    found = failure(SERVER + "+.5 > . 1:1(0) ack 1\n")
    assert "expected a packet, but none was sent until 2.600000 s" in found.message
    assert "expected: 0.600000 > . 1:1(0) ack 1" in found.message


def test_other_packets_of_the_stack_are_none_of_the_connection():
    target = FakeTarget()
    target.at(50 * MS, lambda: target.emit(bytes.fromhex("6000000000003a40") + bytes(32)))
    run(SERVER, target)


def test_a_malformed_packet_is_a_failure():
    target = FakeTarget()
    target.at(150 * MS, lambda: target.emit(b"\x45"))
    assert "malformed packet: found 1 bytes" in failure(SERVER + "* > . 1:1(0) ack 1\n", target).message


@pytest.mark.parametrize(
    ("when", "delay", "fits"),
    [
        ("+0", 4, True),
        ("+0", 5, False),
        ("+.1", 100, True),
        ("+.1", 112, True),  # an eighth late is right: Linux's timers
        ("+.1", 113, False),
        ("+.1", 87, False),
        ("*", 3000, True),
        ("+.1~+.2", 150, True),
        ("+.1~+.2", 213, False),
        (".2~.3", 150, True),
        (".2~.3", 50, False),
        (".2", 103, True),
    ],
)
def test_times_of_packets(when: str, delay: int, fits: bool):
    text = SERVER + f"   +0 < . 1:11(10) ack 1 win 100\n  {when} > . 1:1(0) ack 11\n"
    target = FakeTarget(ack_delay=delay * MS)
    if fits:
        run(text, target)
    else:
        assert "timing: expected outbound packet" in failure(text, target).message


def test_exact_time():
    text = SERVER + "   +0 < . 1:11(10) ack 1 win 100\n  +.1 > . 1:1(0) ack 11\n"
    script = parse(text)
    config = configure(script.options, script.path, script.text)
    config.set_exact()
    Runner(script, config, FakeTarget(ack_delay=100 * MS)).run()
    with pytest.raises(ScriptFailure, match=r"tolerance 0\.000000"):
        Runner(script, config, FakeTarget(ack_delay=100 * MS + 1)).run()


def test_packets_in_a_row_count_from_each_other():
    _, target = run(SERVER + "+.1 < . 1:11(10) ack 1 win 1\n+.1 < . 11:21(10) ack 1 win 1\n+0 > . 1:1(0) ack 11\n"
                    "+0 > . 1:1(0) ack 21\n", FakeTarget(ack_delay=0), tolerance_usecs="200000")
    assert target.now() == BOOT + 300 * MS


def test_a_call_that_gives_something_else():
    assert "write(): expected result 11, came 10" in failure(SERVER + "+0 write(4, ..., 10) = 11\n").message
    found = failure(SERVER + "+0 write(4, NULL, 10) = 10\n")
    assert "write(): expected result 10, came -1 with errno EFAULT (Bad address)" in found.message
    found = failure(SERVER + "+0 write(4, NULL, 10) = -1 EPIPE (Broken pipe)\n")
    assert "expected errno EPIPE (Broken pipe), came EFAULT (Bad address)" in found.message
    run(SERVER + "+0 write(4, NULL, 10) = -1 EFAULT (Bad address)\n+0 write(4, NULL, 10) = -1\n")


def test_a_failure_that_may_be():
    runner, _ = run("--non_fatal=syscall,packet\n" + SERVER + "+0 write(4, ..., 9) = 11\n+0 > P. 1:10(9) ack 2\n")
    assert [warning.split(": ", 1)[0] for warning in runner.warnings] == ["test.pkt:10", "test.pkt:11"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 frobnicate() = 0", "found the call 'frobnicate', expected one of accept"),
        ("0 close(7) = 0", "close(), argument 1: found descriptor 7, expected one that is open in the script"),
        ("0 socket(..., SOCK_STREM, 0) = 3", "found the symbol 'SOCK_STREM'"),
        ("0 socket(1, 2) = 3", "found 2 arguments, expected 3"),
        (SERVER + "+0 write(4, 5, 10) = 10", "write(), argument 2: found an integer, expected ... or NULL"),
        (SERVER + "+0 socket(..., SOCK_STREAM, 0) = 4", "found descriptor 4 as a result"),
        ("0 > . 1:1(0)", "found a packet and no socket"),
        ("0 socket(..., SOCK_DGRAM, IPPROTO_UDP) = 3\n+0 < . 1:1(0) win 1", "of another protocol"),
        ("0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 < . 1:1(0) win 1", "without known addresses"),
        ("0 %{ x = 1 }%", "found a code block and no socket"),
        (LISTEN + "+0 < S 0:0(0) win 1\n+0 %{ x = 1 }%", "whose socket is not open"),
        ("0 `iptables -F`", "found the shell command 'iptables'"),
    ],
)
def test_scripts_that_cant_be_carried_out(text: str, message: str):
    found = bad(text)
    assert message in found.message
    assert found.line == text.rstrip("\n").count("\n") + 1


def test_icmp_quotes_the_connection_in_the_wires_numbers():
    _, target = run(SERVER + "+0 < icmp unreachable frag_needed mtu 800 [1:1001(1000)]\n")
    message = target.injected[-1][0]
    quoted = message.payload
    assert (message.icmp_type, message.icmp_code, message.icmp_rest) == (3, 4, 800)
    sport, dport, seq = struct.unpack_from("!HHI", quoted, 20)
    assert (quoted[12:16], quoted[16:20]) == (message.destination, message.source)
    assert (sport, dport, seq) == (8080, target.peer[1], 0xFFFFFF01)


def test_received_super_packets_say_what_they_were_merged_from():
    _, target = run("--mss=1000\n" + SERVER)
    assert {gso for _, gso in target.injected} == {1000}


def test_marks_of_the_ip_header():
    target = FakeTarget()
    target.at(150 * MS, lambda: target.send(tcp.ACK, 0, info=IpInfo(TOS_BYTE, 2)))
    target.at(160 * MS, lambda: target.send(tcp.ACK, 0, info=IpInfo(TOS_BYTE, 3)))
    target.at(170 * MS, lambda: target.send(tcp.ACK, 0, info=IpInfo(ttl=7)))
    run(SERVER + "* > [ect0] . 1:1(0) ack 1\n* > [ce] . 1:1(0) ack 1\n* > [ttl 7] . 1:1(0) ack 1\n", target)
    target = FakeTarget()
    target.at(150 * MS, lambda: target.send(tcp.ACK, 0, info=IpInfo(TOS_BYTE, 0x13)))
    found = failure(SERVER + "* > [ect0] . 1:1(0) ack 1\n", target)
    assert "ECN bits: expected 2, came 3" in found.message
    assert "came:     0.150000 > [ce] . 1:1(0) ack 1" in found.message


def test_ipv6_and_mapped_addresses():
    run(SERVER, ip_version="ipv6")
    _, target = run(SERVER, ip_version="ipv4-mapped-ipv6")
    assert len(target.injected[0][0].source) == 4


def test_flow_labels_say_same_or_other():
    def labels(*values: int) -> FakeTarget:
        target = FakeTarget()
        for index, value in enumerate(values):
            target.at((150 + index) * MS, lambda value=value: target.send(tcp.ACK, info=IpInfo(flow_label=value)))  # type: ignore[misc]
        return target

    text = SERVER + "".join(f"* > [flowlabel 0x{label}] . 1:1(0) ack 1\n" for label in (1, 1, 2))
    run(text, labels(77, 77, 88), ip_version="ipv6")
    assert "expected the same 0x4d, came 0x58" in failure(text, labels(77, 88, 99), ip_version="ipv6").message
    assert "expected another than 0x4d" in failure(text, labels(77, 77, 77), ip_version="ipv6").message
    assert "expected one, came 0" in failure(text, labels(0), ip_version="ipv6").message


def test_code_blocks_see_the_socket_and_keep_their_variables():
    target = FakeTarget()
    info = bytearray(256)
    info[0] = 1
    struct.pack_into("=I", info, 80, 10)
    target.options[11] = bytes(info)
    target.options[55] = struct.pack("=9I", *range(9))
    runner, _ = run(
        SERVER
        + """\
   +0 %{ assert tcpi_state == TCP_ESTABLISHED, tcpi_state
cwnd = tcpi_snd_cwnd }%
   +0 %{ print(cwnd); assert cwnd == 10 and SK_MEMINFO_RCVBUF == 1 }%
""",
        target,
    )
    assert runner.code.output == ["10\n"]


def test_a_failed_assertion_names_its_line():
    found = failure(SERVER + "+0 %{\nx = 4\nassert x == 5, 'x=%d' % x\n}%\n")
    assert found.line == 9
    assert found.message == "code block (line 11): AssertionError: x=4\n  assert x == 5, 'x=%d' % x"
    assert "NameError: name 'y' is not defined" in failure(SERVER + "+0 %{ y }%").message
    assert "SyntaxError" in failure(SERVER + "+0 %{ y y }%").message


def test_shell_lines_before_between_and_after():
    first, last = "`sysctl -q net.ipv4.tcp_ecn=1`\n", "`sysctl -q net.ipv4.tcp_ecn=0`\n"
    _, target = run(first + SERVER + "+0 `sysctl -q net.ipv4.tcp_sack=0; sleep 0.5`\n" + last)
    assert target.shell().sysctls["net.ipv4.tcp_sack"] == "0"
    assert target.shell().sysctls["net.ipv4.tcp_ecn"] == "0"
    assert target.now() == BOOT + 600 * MS


def test_scripts_that_an_option_names_run_first():
    _, target = run("--init_scripts=../x/defaults.sh,defaults.sh\n`sysctl -q net.ipv4.tcp_sack=0`\n" + SERVER)
    assert target.shell().sysctls["net.ipv4.tcp_sack"] == "0"
    assert target.shell().sysctls["net.ipv4.tcp_frto"] == "2"
    assert (bad("\n`rhubarb`\n" + SERVER).line, bad("`a`\n" + SERVER).column) == (2, 1)


def test_a_shell_line_that_fails():
    found = failure(SERVER + "+0 `nstat | grep -q Tcp`\n")
    assert (found.line, found.message) == (9, "shell command failed with status 1:\n  nstat | grep -q Tcp")
    target = FakeTarget()
    target.shell().known = set()
    found = failure("`sysctl -q net.ipv4.tcp_ecn=1`\n" + SERVER, target)
    assert "sysctl: net.ipv4.tcp_ecn: No such file or directory" in found.message


def test_the_last_shell_lines_run_after_a_failure_too():
    target = FakeTarget()
    failure(SERVER + "+0 write(4, ..., 1) = 2\n`sysctl -q net.ipv4.tcp_ecn=7`\n", target)
    assert target.shell().sysctls["net.ipv4.tcp_ecn"] == "7"


def test_a_connection_may_be_accepted_under_a_descriptor_that_is_open():
    again = LISTEN.replace("    0 socket", "   +0 socket") + SERVER.removeprefix(LISTEN)
    _, target = run(SERVER + "+0 close(3) = 0\n" + again + "+0 close(4) = 0\n+0 > F. 1:1(0) ack 1\n+0 close(4) = 0\n")
    assert [live.source_port for live, _ in target.injected] == [40001, 40001, 40002, 40002]


def test_other_calls():
    run(
        SERVER
        + """\
   +0 pipe([5, 6]) = 0
   +0 close(6) = 0
   +0 epoll_create(1) = 7
   +0 epoll_ctl(7, EPOLL_CTL_ADD, 4, {events=EPOLLIN, fd=4}) = 0
   +0 epoll_wait(7, {events=0, ptr=0}, 1, 0) = 0
   +0 < . 1:101(100) ack 1 win 9
   +0 > . 1:1(0) ack 101
   +0 epoll_wait(7, {events=EPOLLIN, fd=4}, 1, 0) = 1
   +0 ioctl(4, SIOCINQ, [100]) = 0
   +0 poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLOUT}], 1, 0) = 1
   +0 getsockopt(4, SOL_SOCKET, SO_ERROR, [0], [4]) = 0
   +0 recvmsg(4, {msg_name(...)=..., msg_iov(1)=[{..., 40}], msg_flags=0,
                  msg_control=[{cmsg_level=SOL_TCP, cmsg_type=TCP_CM_INQ, cmsg_data=60}]}, 0) = 40
   +0 fcntl(4, F_SETFL, O_RDWR|O_NONBLOCK) = 0
"""
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ioctl(4, SIOCINQ, [1]) = 0", "ioctl(): expected the value 1, came 0"),
        ("poll([{fd=4, events=POLLOUT}], 1, 0) = 1", "pollfd 0: expected 0, came POLLOUT"),
        ("getsockopt(4, SOL_SOCKET, SO_ERROR, [5], [4]) = 0", "getsockopt(): expected 5, came 0"),
        ('getsockopt(4, SOL_TCP, TCP_CONGESTION, "reno", [4]) = 0', "expected b'reno', came b'\\x00"),
    ],
)
def test_what_a_call_leaves_is_compared(call: str, message: str):
    assert message in failure(SERVER + f"+0 {call}\n").message


def test_a_stack_that_never_rests_is_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("usernet.packetdrill.runner.MAX_STEPS", 1000)
    target = FakeTarget()

    def again() -> None:
        target.at(target.now() - BOOT, again)

    target.at(SEC, again)
    found = failure(SERVER + "+5 write(4, ..., 1) = 1\n", target)
    assert "still busy after 1000 steps, at 1.000000 s" in found.message
