from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.sh import Result, read, run

VARIABLES = {"PPID": "77", "NAME": "a b"}


def words(text: str) -> list[list[str]]:
    return [command.words for pipeline in read(text, VARIABLES) for command in pipeline.commands]


class Host:
    """Commands that say what they are called with: `echo WORDS`, `fail`, `cat`, `warn`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.files: dict[str, str] = {}

    def run(self, command: list[str], piped: str) -> Result:
        self.ran.append(command[0])
        if command[0] == "echo":
            return Result(output=" ".join(command[1:]) + "\n")
        if command[0] == "cat":
            return Result(output=piped)
        if command[0] == "warn":
            return Result(output="out\n", errors="warning\n")
        return Result(1 if command[0] == "fail" else 0)

    def write(self, path: str, text: str, append: bool) -> str:
        if path == "/bad":
            return "bad file\n"
        self.files[path] = (self.files.get(path, "") if append else "") + text
        return ""


def execute(text: str) -> tuple[Result, Host]:
    host = Host()
    return run(text, VARIABLES, host.run, host.write), host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  c", [["a", "b", "c"]]),
        ("a; b\nc && d || e | f", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]),
        ("a # comment ; b\nc", [["a"], ["c"]]),
        ("a#b", [["a#b"]]),
        ('a="4096 5 6"', [["a=4096 5 6"]]),
        ("a='x $PPID' \"y $PPID\" ${PPID}.sh", [["a=x $PPID", "y 77", "77.sh"]]),
        ('"$((15*1024*1024))" $((1 << 4)) $(( -7 + ${PPID} ))', [["15728640", "16", "70"]]),
        ("a \\\n  b", [["a", "b"]]),
        ("a \\; \\\"b\\\" \"c\\\"d\\x\"", [["a", ";", '"b"', 'c"d\\x']]),
        ("$UNSET", [[""]]),
        ("a $", [["a", "$"]]),
    ],
)
def test_words(text: str, expected: list[list[str]]):
    assert words(text) == expected


def test_and_or_and_the_last_status():
    result, host = execute("fail && echo a\necho b || echo c; fail || echo d")
    assert (result.status, result.output) == (0, "b\nd\n")
    assert host.ran == ["fail", "echo", "fail", "echo"]
    assert execute("echo a; fail")[0].status == 1
    assert execute("fail\necho a ||\\\n  echo b")[0].status == 0


def test_redirections():
    _, host = execute("echo 3 > /x; echo 4 >> /x; warn > /dev/null 2>&1; warn 2>&1 > /y; warn &> /z; echo 1 >/w")
    assert host.files == {"/x": "3\n4\n", "/y": "out\n", "/z": "out\nwarning\n", "/w": "1\n"}
    result, _ = execute("warn > /dev/null 2>&1")
    assert (result.output, result.errors) == ("", "")
    result, _ = execute("warn 2> /dev/null")
    assert (result.output, result.errors) == ("out\n", "")
    result, _ = execute("warn 1>&2")
    assert (result.output, result.errors) == ("", "out\nwarning\n")
    result, _ = execute("echo a > /bad")
    assert (result.status, result.errors) == (1, "bad file\n")


def test_a_pipeline_hands_its_output_on():
    result, _ = execute("echo a | cat | cat")
    assert result.output == "a\n"


@pytest.mark.parametrize(
    "text", ['a "b', "a 'b", "a $(ls)", "a $((1", "a $((x))", "a $((1/0))", "a $((2**9))", "a >", "$((9 << 99 << 99))"]
)
def test_what_is_no_shell(text: str):
    with pytest.raises(BadEvent):
        words(text)


@given(st.text(alphabet="ab $(){}\"'\\;|&<>\n#=1*+`", max_size=40))
def test_any_text_is_read_or_refused(text: str):
    try:
        read(text, VARIABLES)
    except BadEvent:
        return
