from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.sh import MAX_LOOPS, Exit, Result, run
from usernet.packetdrill.sh_read import MAX_NESTING, read

VARIABLES = {"PPID": "77", "NAME": "a b"}


def words(text: str) -> list[list[str]]:
    """Every command that runs, as its words."""
    ran: list[list[str]] = []

    def note(command: list[str], piped: str) -> Result:
        ran.append(command)
        return Result()

    run(text, dict(VARIABLES), note, lambda path: "", lambda path, text, append: "")
    return ran


class Host:
    """Commands that say what they are called with: `echo WORDS`, `fail`, `cat`, `warn`, NAME=VALUE, `exit`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.variables = dict(VARIABLES)
        self.files: dict[str, str] = {}

    def run(self, command: list[str], piped: str) -> Result:
        self.ran.append(command[0])
        if "=" in command[0]:
            name, _, value = command[0].partition("=")
            self.variables[name] = value
            return Result()
        if command[0] == "exit":
            raise Exit(int(command[1]))
        if command[0] == "echo":
            return Result(output=" ".join(command[1:]) + "\n")
        if command[0] == "cat":
            return Result(output=piped)
        if command[0] == "warn":
            return Result(output="out\n", errors="warning\n")
        return Result(1 if command[0] == "fail" else 0)

    def read(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory")
        return self.files[path]

    def write(self, path: str, text: str, append: bool) -> str:
        if path == "/bad":
            return "bad file\n"
        self.files[path] = (self.files.get(path, "") if append else "") + text
        return ""


def execute(text: str) -> tuple[Result, Host]:
    host = Host()
    return run(text, host.variables, host.run, host.read, host.write), host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  c", [["a", "b", "c"]]),
        ("a; b\nc && d | f", [["a"], ["b"], ["c"], ["d"], ["f"]]),
        ("a # comment ; b\nc", [["a"], ["c"]]),
        ("a#b", [["a#b"]]),
        ('a="4096 5 6"', [["a=4096 5 6"]]),
        ("a='x $PPID' \"y $PPID\" ${PPID}.sh", [["a=x $PPID", "y 77", "77.sh"]]),
        ('"$((15*1024*1024))" $((1 << 4)) $(( -7 + ${PPID} ))', [["15728640", "16", "70"]]),
        ("a \\\n  b", [["a", "b"]]),
        ("a \\; \\\"b\\\" \"c\\\"d\\x\"", [["a", ";", '"b"', 'c"d\\x']]),
        ("a $UNSET b$UNSET '' \"$UNSET\"", [["a", "b", "", ""]]),
        ("$NAME x${NAME}y \"$NAME\"", [["a", "b", "xa", "by", "a b"]]),
        ("V=$NAME", [["V=a b"]]),
        ("a=1 if b", [["a=1", "if", "b"]]),
        ("dd if=/dev/zero", [["dd", "if=/dev/zero"]]),
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


def test_a_variable_that_is_not_set_is_0_in_arithmetic():
    assert words("a $((UNSET + 1))") == [["a", "1"]]


def test_variables_are_known_when_it_is_their_turn():
    result, host = execute("X=1; echo $X; X=2; echo $X $((X + $X)) $?; fail; echo $?")
    assert result.output == "1\n2 4 0\n1\n"
    assert host.variables["X"] == "2"


def test_command_substitution():
    assert execute("echo $(echo a; echo b) \"$(echo 'c  d')\" $(echo e | cat)x")[0].output == "a b c  d ex\n"
    assert execute("X=$(echo a b); echo $X")[0].output == "a b\n"
    result, _ = execute("echo $(warn)")
    assert result.output == "out\n"


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("if true; then echo a; fi; echo b", "a\nb\n"),
        ("if fail; then echo a; else echo b; fi", "b\n"),
        ("if fail; then echo a; elif true\nthen\n echo b\nelse echo c\nfi | cat", "b\n"),
        ("if fail; then echo a; fi && echo b", "b\n"),
        ("if true; then if fail; then echo a; else echo b; fi; fi", "b\n"),
        ("for i in 1 2 $NAME; do echo $i; done", "1\n2\na\nb\n"),
        ("for i in 1 2\ndo\n echo $i # one\ndone", "1\n2\n"),
        ("X=; while ! cat < /f; do echo b > /f; done", "b\n"),
        ("{ echo a; echo b; } | cat; (echo c; echo d) | cat", "a\nb\nc\nd\n"),
        ("! fail && echo a; ! true || echo b", "a\nb\n"),
        ("echo a &&\n\necho b", "a\nb\n"),
        ("echo a; exit 3; echo b", "a\n"),
    ],
)
def test_control(text: str, output: str):
    assert execute(text)[0].output == output


def test_exit_and_a_missing_file_are_a_status():
    assert execute("echo a; exit 3; echo b")[0].status == 3
    result, host = execute("cat < /none")
    assert (result.status, result.errors, host.ran) == (1, "/none: No such file or directory\n", [])


def test_a_loop_ends():
    with pytest.raises(BadEvent, match=f"went round {MAX_LOOPS} times"):
        execute("while true; do true; done")


def test_commands_may_not_nest_without_end():
    with pytest.raises(BadEvent, match=f"more than {MAX_NESTING} levels"):
        execute("(" * 100 + "a" + ")" * 100)


@pytest.mark.parametrize(
    "text",
    ["if a; then b", "if a; fi", "then", "for in a; do b; done", "for i; do b; done", "while a; b; done", "{ a", "(a",
     "a )", "| a", "a |", "a | | b", "a `b`", "a $(b", "fi", "a && | b", "&& a"],
)  # fmt: skip
def test_what_is_no_command(text: str):
    with pytest.raises(BadEvent, match="shell line 1: found"):
        execute(text)


@pytest.mark.parametrize(
    "text", ['a "b', "a 'b", "a $((1", "a $((x y))", "a $((1/0))", "a $((2**9))", "a >", "$((9 << 99 << 99))"]
)
def test_what_is_no_shell(text: str):
    with pytest.raises(BadEvent):
        words(text)


@given(st.text(alphabet="ab $(){}\"'\\;|&<>\n#=1*+`", max_size=40))
def test_any_text_is_read_or_refused(text: str):
    try:
        read(text)
    except BadEvent:
        return
