from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.packetdrill.ast import (
    ABSOLUTE,
    ABSOLUTE_RANGE,
    ANY_TIME,
    RELATIVE,
    RELATIVE_RANGE,
    Code,
    Command,
    EventTime,
    Icmp,
    Packet,
    Script,
    String,
    SystemCall,
    Tcp,
)
from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.parser import parse, parse_file

MS = 1_000_000
SEC = 1_000_000_000


def error(text: str, defines: dict[str, str] | None = None) -> ScriptError:
    with pytest.raises(ScriptError) as caught:
        parse(text, "x.pkt", defines)
    return caught.value


def calls(script: Script) -> list[SystemCall]:
    return [event.action for event in script.events if isinstance(event.action, SystemCall)]


WHOLE = """\
// A script with one of everything.
--mss=1000
--strict_segments

`../common/defaults.sh
 sysctl -q net.ipv4.tcp_ecn=1`

    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 < S 0:0(0) win 100 <mss 1000,sackOK,nop,nop>
   *  > S. 0:0(0) ack 1 <...>
 +.01...0.02 accept(3, ..., ...) = 4
   +0 %{ assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd }%
   +0 `sysctl -q net.ipv4.tcp_sack=0`
  1~1.5 > . 1:1(0) ack 1
  +0~+.04 > . 1:1(0) ack 1

`/tmp/sysctl_restore_${PPID}.sh`
"""


def test_a_whole_script():
    script = parse(WHOLE, "whole.pkt")
    assert [(option.name, option.value, option.line) for option in script.options] == [
        ("mss", "1000", 2), ("strict_segments", None, 3),
    ]
    assert script.init == Command("../common/defaults.sh\n sysctl -q net.ipv4.tcp_ecn=1", 5)
    assert script.cleanup == Command("/tmp/sysctl_restore_${PPID}.sh", 17)
    assert [event.line for event in script.events] == [8, 9, 10, 11, 12, 13, 14, 15]
    assert [type(event.action) for event in script.events] == [
        SystemCall, Packet, Packet, SystemCall, Code, Command, Packet, Packet,
    ]
    assert [event.time for event in script.events] == [
        EventTime(ABSOLUTE, 0, 0),
        EventTime(RELATIVE, 0, 0),
        EventTime(ANY_TIME),
        EventTime(RELATIVE, 10 * MS, 10 * MS),
        EventTime(RELATIVE, 0, 0),
        EventTime(RELATIVE, 0, 0),
        EventTime(ABSOLUTE_RANGE, SEC, 1500 * MS),
        EventTime(RELATIVE_RANGE, 0, 40 * MS),
    ]
    assert [call.end for call in calls(script)] == [None, 20 * MS]


def test_times_are_exact():
    script = parse("0 a() = 0\n+0.000000001 b() = 0\n+123456789.1 c() = 0\n+2 d() = 0")
    assert [event.time.start for event in script.events] == [0, 1, 123456789_100000000, 2 * SEC]


def test_a_symbol_that_is_defined_on_the_command_line_goes_before_the_script():
    text = "--define=N=1\n--define=M=2\n0 f(N, M) = 0"
    (call,) = calls(parse(text, defines={"N": "7"}))
    assert repr(call.arguments) == "[Integer(value=7, hexadecimal=False), Integer(value=2, hexadecimal=False)]"


def test_a_symbol_stands_for_a_word_a_string_or_a_command():
    script = parse(
        '--define=CODE=host_unreachable\n--define=CC="reno"\n--define=GO=`sysctl -q a=1`\n'
        "0 f(CC) = 0\n+0 < icmp unreachable CODE\n+0 GO\n"
        "+0 < S 0:0(0) win 1 <FO COOKIE,nop,nop>",
        defines={"COOKIE": "0123456789abcdef"},
    )
    first, second, third, fourth = [event.action for event in script.events]
    assert isinstance(first, SystemCall) and first.arguments == [String(b"reno")]
    assert isinstance(second, Packet) and isinstance(second.body, Icmp) and second.body.code == "host_unreachable"
    assert isinstance(third, Command) and third.text == "sysctl -q a=1"
    assert isinstance(fourth, Packet) and isinstance(fourth.body, Tcp) and fourth.body.options
    assert fourth.body.options[0].data.hex() == "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", (1, 1), "found the end of the script, expected an event"),
        ("`a`", (1, 4), "found the end of the script, expected an event"),
        ("0 f() = 0\n`a`\n+0 g() = 0", (3, 1), "expected the end of the script"),
        ("1 f() = 0", (1, 1), "expected time 0"),
        ("* > . 1:1(0)", (1, 1), "expected time 0"),
        ("0 f() = 0\n2 f() = 0\n1 f() = 0", (3, 1), "found the time 1 after 2, expected times to grow"),
        ("0 f() = 0\n* f() = 0", (2, 1), "found '*' for something else than an outbound packet"),
        ("0 f() = 0\n+1~+2 < . 1:1(0) win 1", (2, 1), "found a range of times for something else"),
        ("0 f() = 0\n+2~+1 > . 1:1(0)", (2, 1), "ends before it begins"),
        ("0 f() = 0\n+1~2 > . 1:1(0)", (2, 4), "found '2', expected '+'"),
        ("0 f() = 0\n+-1 f() = 0", (2, 2), "negative time"),
        ("0...1 > . 1:1(0)", (1, 7), "found '>', expected a system call"),
        ("0 f() = 0\n1...0.5 f() = 0", (2, 1), "returns before it starts"),
        ("0 ;", (1, 3), "found ';', expected an action"),
        ("99999999999 f() = 0", (1, 1), "expected at most"),
        ("0 f() = 0 0", (1, 12), "expected an action"),
        ("--define=A\n0 f() = 0", (1, 1), "expected --define=NAME=VALUE"),
        ("0 < S 0:0(0) wim 1", (1, 14), "found 'wim', expected 'win'"),
    ],
)
def test_errors_say_where_and_what(text: str, place: tuple[int, int], message: str):
    found = error(text)
    assert (found.line, found.column) == place
    assert message in found.message
    assert found.path == "x.pkt"


def test_a_file(tmp_path: Path):
    path = tmp_path / "a.pkt"
    path.write_text(WHOLE)
    assert len(parse_file(str(path)).events) == 8
    path.write_bytes(b"0 f() = 0\n+0 g(\xff) = 0\n")
    with pytest.raises(ScriptError, match="0xff, expected UTF-8 text") as caught:
        parse_file(str(path))
    assert (caught.value.line, caught.value.column) == (2, 6)


WORDS = [
    "0", "+0", "+.1", "*", "~", "...", "<", ">", "S", ".", "P.5", "0:0(0)", "1:11(10)", "ack", "win", "1", "<mss 1>",
    "socket(", ")", "=", "-1", "EPIPE", "(note)", "`x`", "%{ x }%", "[", "]", "{", "}", "|", ",", '"s"', "icmp", "udp",
    "unreachable", "ipv4", "1.2.3.4", "gre", "mpls", "{fd=3, events=1}", "--a=b", "\n", "0x10", "[ect0]", "f()",
]


@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_any_row_of_words_is_a_script_or_a_script_error(words: list[str]):
    try:
        script = parse(" ".join(words))
    except ScriptError:
        return
    assert script.events


def test_brackets_may_not_nest_without_end():
    assert "levels of brackets" in error("0 f(" + "[" * 10_000 + ") = 0").message
