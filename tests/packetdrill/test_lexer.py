from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.packetdrill import lexer
from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.lexer import tokenize


def kinds(text: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in tokenize(text)[:-1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0...0.200", [(lexer.INTEGER, "0"), (lexer.ELLIPSIS, "..."), (lexer.FLOAT, "0.200")]),
        ("+.1~+1", [(lexer.PUNCTUATION, "+"), (lexer.FLOAT, ".1"), (lexer.PUNCTUATION, "~"), (lexer.PUNCTUATION, "+"),
                    (lexer.INTEGER, "1")]),
        ("P.5", [(lexer.WORD, "P"), (lexer.FLOAT, ".5")]),
        ("F. 1", [(lexer.WORD, "F"), (lexer.PUNCTUATION, "."), (lexer.INTEGER, "1")]),
        ("1:1001(1000)", [(lexer.INTEGER, "1"), (lexer.PUNCTUATION, ":"), (lexer.INTEGER, "1001"),
                          (lexer.PUNCTUATION, "("), (lexer.INTEGER, "1000"), (lexer.PUNCTUATION, ")")]),
        ("3021b9d889017eeb", [(lexer.WORD, "3021b9d889017eeb")]),
        ("0x1F", [(lexer.HEX, "0x1F")]),
        ("-1 ECONNREFUSED", [(lexer.INTEGER, "-1"), (lexer.WORD, "ECONNREFUSED")]),
        ("192.168.0.1", [(lexer.IPV4, "192.168.0.1")]),
        ("fd3d:0a0b:17d6::1", [(lexer.IPV6, "fd3d:0a0b:17d6::1")]),
        ("::ffff:1.2.3.4", [(lexer.IPV6, "::ffff:1.2.3.4")]),
        ("1::2 > 3::4: .", [(lexer.IPV6, "1::2"), (lexer.PUNCTUATION, ">"), (lexer.IPV6, "3::4"),
                            (lexer.PUNCTUATION, ":"), (lexer.PUNCTUATION, ".")]),
        ('"a // b"', [(lexer.STRING, "a // b")]),
        (r'"a\"b"', [(lexer.STRING, r"a\"b")]),
        ("`sysctl -q a=1 // no comment`", [(lexer.BACKQUOTED, "sysctl -q a=1 // no comment")]),
        ("%{ a = {1: 2}  }%", [(lexer.CODE, "a = {1: 2}")]),
        ("// a comment\n1 /* and\n another */ 2", [(lexer.INTEGER, "1"), (lexer.INTEGER, "2")]),
        ("1 // no end of line", [(lexer.INTEGER, "1")]),
    ],
)
def test_tokens(text: str, expected: list[tuple[str, str]]):
    assert kinds(text) == expected


def test_a_code_block_keeps_its_lines():
    (token, _) = tokenize("%{\nassert 1\n}%")
    assert token.text == "\nassert 1\n"


def test_an_option_and_its_value():
    tokens = tokenize('--mss=1000 --strict_segments // so\n--define=A="x y"\n--local_ip=fd::1')
    assert [(token.text, token.argument) for token in tokens[:-1]] == [
        ("mss", "1000"), ("strict_segments", None), ("define", 'A="x y"'), ("local_ip", "fd::1"),
    ]


def test_places_count_from_one_and_across_lines():
    tokens = tokenize("a\n  `x\ny` b\n/* \n */ c")
    assert [(token.line, token.column) for token in tokens] == [(1, 1), (2, 3), (3, 4), (5, 5), (5, 6)]


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("1\n `sysctl", (2, 2), "shell command without an end"),
        ('1 "abc', (1, 3), "string without an end"),
        ("%{ assert", (1, 1), "code block without an end"),
        ("/* so", (1, 1), "comment without an end"),
        ("a \x00", (1, 3), "character"),
    ],
)
def test_what_has_no_end(text: str, place: tuple[int, int], found: str):
    with pytest.raises(ScriptError, match=found) as caught:
        tokenize(text, "x.pkt")
    assert (caught.value.line, caught.value.column) == place
    assert str(caught.value).startswith(f"x.pkt:{place[0]}:{place[1]}: ")


def test_a_report_points_at_the_place():
    with pytest.raises(ScriptError) as caught:
        tokenize('0 a\n\tb "c', "x.pkt")
    assert caught.value.report().splitlines()[1:] == ['  \tb "c', "  \t  ^"]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_gives_tokens_in_order_or_a_script_error(text: str):
    try:
        tokens = tokenize(text)
    except ScriptError:
        return
    assert tokens[-1].kind == lexer.END
    places = [(token.line, token.column) for token in tokens]
    assert places == sorted(places)
