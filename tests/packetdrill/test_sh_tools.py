from __future__ import annotations

import pytest

from usernet.packetdrill.sh_tools import TOOLS, Usage


def run(line: str, piped: str = "") -> tuple[int, str]:
    words = line.split("|")
    result = TOOLS[words[0]](words, piped)
    return result.status, result.output


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("echo|a|b", "a b\n"),
        ("echo|-n|a", "a"),
        ("echo|-e|a\\tb\\\\", "a\tb\\\n"),
        ("echo|-x", "-x\n"),
        ("printf|%s=%d %x%%\\n|a|5|255", "a=5 ff%\n"),
        ("printf|%3s|a", "  a"),
        ("printf|a|b", "a"),
        ("head|-1", "one two\n"),
        ("head|-n|2", "one two\nthree\n"),
        ("head", "one two\nthree\nfour\n"),
        ("tail|-n2", "three\nfour\n"),
        ("tail|-n|0", ""),
        ("wc|-l", "3\n"),
        ("wc|-w", "4\n"),
        ("wc|-c", "19\n"),
        ("grep|o", "one two\nfour\n"),
        ("grep|-v|o", "three\n"),
        ("grep|-c|o", "2\n"),
        ("grep|-ci|THREE", "1\n"),
        ("grep|-o|o.", "on\nou\n"),
        ("grep|-w|tw", ""),
        ("grep|-q|o", ""),
        ("grep|-F|e.", ""),
        ("grep|-E|^(one|four)".replace("(one|four)", "(one)"), "one two\n"),
    ],
)
def test_output(line: str, output: str):
    assert run(line, "one two\nthree\nfour\n")[1] == output


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("test|1|-eq|01", 0),
        ("test|1|-lt|1", 1),
        ("[|0x10|-ge|16|]", 0),
        ("[|a|=|a|]", 0),
        ("[|a|!=|a|]", 1),
        ("[|!|a|=|b|]", 0),
        ("[|-n||]", 1),
        ("[|-z||]", 0),
        ("[|]", 1),
        ("[|x|]", 0),
        ("[|1|-gt|0|-a|2|-le|1|]", 1),
        ("[|1|-gt|2|-o|2|-ne|1|]", 0),
        ("true", 0),
        ("false", 1),
        ("grep|x", 1),
    ],
)
def test_status(line: str, status: int):
    assert run(line)[0] == status


@pytest.mark.parametrize(
    "line",
    ["[|a", "test|a|-eq|1", "test|a|b", "test|a|~|b", "wc", "wc|-x", "head|-n|x", "head|file", "grep", "grep|(",
     "grep|-P|a", "printf", "printf|%d|x"],
)  # fmt: skip
def test_what_is_refused(line: str):
    with pytest.raises(Usage, match="found"):
        run(line)
