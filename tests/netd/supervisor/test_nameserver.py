"""The nameserver of `host.usernet` on what nobody should send it: it says nothing, or an answer that can be read."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st

from usernet.netd.supervisor.nameserver import Nameserver
from usernet.netd.supervisor.web import Request

MANY = [f"10.1.0.{number}" for number in range(200)]
SERVER = Nameserver({"host.usernet": ["10.0.2.2"], "many.usernet": MANY}, "usernet", "ns")
GOOD = dns.message.make_query("host.usernet", "A").to_wire()


@given(st.binary(max_size=200))
def test_anything(wire: bytes):
    answer = SERVER.answer(wire, 512)
    if len(wire) < 12 or wire[2] & 0x80:
        assert answer == b""
    else:
        assert answer[:2] == wire[:2]
        assert answer[2] & 0x80
        assert 12 <= len(answer) <= 65535
        dns.message.from_wire(answer, ignore_trailing=True)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=6))
def test_a_question_that_is_damaged(at: int, other: bytes):
    wire = GOOD[:at] + other + GOOD[at + len(other) :]
    answer = SERVER.answer(wire)
    assert answer[:2] in (wire[:2], b"")


def test_an_answer_is_cut_where_it_does_not_fit():
    query = dns.message.make_query("many.usernet", "A", use_edns=False)
    short = dns.message.from_wire(SERVER.answer(query.to_wire(), 512))
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert len(dns.message.from_wire(SERVER.answer(query.to_wire())).answer[0]) == 200
    query.use_edns(payload=4096)
    assert len(dns.message.from_wire(SERVER.answer(query.to_wire(), 512)).answer[0]) == 200


def test_other_classes_are_refused():
    query = dns.message.make_query("version.bind", "TXT", "CH")
    assert dns.message.from_wire(SERVER.answer(query.to_wire())).rcode() == dns.rcode.REFUSED


@given(st.binary(max_size=300))
def test_a_request_of_any_kind_has_a_problem_or_a_target(head: bytes):
    request = Request(head)
    assert request.problem is not None or request.target
    assert isinstance(request.keep, bool)
