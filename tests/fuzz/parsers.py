"""The parsers by themselves: each gives a result or its documented error, and what it gives can be used."""

from __future__ import annotations

import errno
import ipaddress
from contextlib import suppress
from functools import partial
from io import BytesIO

import usernet
from usernet.ip import text as text_module
from usernet.packetdrill.errors import ScriptError
from usernet.packetdrill.parser import parse as parse_script
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.filter import Program
from usernet.sock.ports import parse_port_list
from usernet.wire import ethernet, igmp, ipv4_options, tcp
from usernet.wire.errors import WireError
from usernet.wire.pcapng import PcapReader

ADDR = b"\x0a\0\0\1"


def tcp_options(data: bytes) -> None:
    """TCP options: never an error; blocks of SACK are pairs."""
    found = tcp.parse_options(data, 0, len(data))
    tcp.parse_ts(data, 0)
    assert 0 <= found.mss < 65536 and -1 <= found.wscale < 256
    assert found.sacks is None or all(len(block) == 2 for block in found.sacks)
    assert found.fastopen is None or not len(found.fastopen) or 4 <= len(found.fastopen) <= 16


def ip_options(data: bytes) -> None:
    """IPv4 options as received and as given by a socket; those that pass can be worked on, echoed and fragmented."""
    data = data[:40]
    ipv4_options.fragment_options(data)
    for sending in (False, True):
        try:
            found = ipv4_options.parse_options(data, sending)
        except WireError as problem:
            assert 0 <= problem.offset <= len(data)  # noqa: PT017
            continue
        for kind, offset, body in found:
            assert (offset >= 0 and offset + 2 + len(body) <= len(data)) or not body
            if kind == ipv4_options.IPOPT_RR:
                assert len(ipv4_options.record_route(data, offset, ADDR)) == len(data)
            elif kind == ipv4_options.IPOPT_TIMESTAMP:
                ipv4_options.timestamp_addr(data, offset)
                assert len(ipv4_options.record_timestamp(data, offset, ADDR, 1)) == len(data)
            elif kind in (ipv4_options.IPOPT_LSRR, ipv4_options.IPOPT_SSRR):
                if ipv4_options.source_route_next(data, offset) is not None:
                    assert len(ipv4_options.source_route_advance(data, offset, ADDR)) == len(data)
        if not sending:
            echoed, _ = ipv4_options.echo_options(data, ADDR)
            assert len(echoed) <= 40


def igmp_parsers(data: bytes) -> None:
    """IGMP queries and reports."""
    with suppress(WireError):
        igmp.parse_query(data, 0, len(data))
    with suppress(WireError):
        igmp.parse_v3_report(data, 0, len(data))
    if len(data) >= 8:
        igmp.query_version(data, 0, len(data))


def pcap_files(data: bytes) -> None:
    """Capture files, pcap and pcapng."""
    try:
        for record in PcapReader(BytesIO(data)):
            assert record.if_index >= 0 and len(record.data) <= len(data)
    except WireError as problem:
        assert 0 <= problem.offset <= len(data)  # noqa: PT017


def bpf_programs(data: bytes) -> None:
    """BPF: a program that passes the check ends, with a number of 32 bits, on any packet."""
    packet, code = data[1 : 1 + (data[0] if data else 0)], data[1 + (data[0] if data else 0) :]
    try:
        program = Program(code)
    except OSError as problem:
        assert problem.errno == errno.EINVAL  # noqa: PT017
        return
    skb = SKBuff(packet)
    skb.network_header = min(14, len(packet))
    skb.mac_header = 0
    assert 0 <= program.run(skb) <= 0xFFFFFFFF


def dns_answers(data: bytes) -> None:
    """What a nameserver says, to the resolver: addresses and names, or no answer."""
    import dns.message

    from usernet.posix import resolver

    for kind in ("A", "PTR"):
        query = dns.message.make_query("host.example.", kind, use_edns=False)
        query.id = int.from_bytes(data[:2], "big")
        answer = resolver._parse(query, data)
        if answer is None:
            continue
        answer.rcode()
        resolver._is_cut(answer)
        for text in resolver._read(answer, "host.example.", kind):
            if kind == "A":
                ipaddress.ip_address(text)


def packetdrill_scripts(data: bytes) -> None:
    """Scripts of packetdrill: parsed, or an error with a place in them."""
    with suppress(ScriptError):
        parse_script(data.decode(errors="replace"))


def texts(data: bytes) -> None:
    """What people type: addresses, prefixes, MAC addresses, ports, sysctls. ValueError, and nothing changes."""
    text = data.decode(errors="replace")
    for parse in (text_module.parse_interface, text_module.parse_prefix, partial(text_module.parse_address, "via")):
        try:
            parse(text)
        except ValueError:
            pass
        except OSError as refused:
            if refused.errno != errno.EAFNOSUPPORT:
                raise
    with suppress(ValueError):
        assert len(ethernet.parse_mac(text)) == 6
    with suppress(ValueError):
        parse_port_list(text)
    name, _, value = text.partition("=")
    stack = usernet.Stack("settings", seed=1)
    try:
        before = {path: stack.sysctl[path] for path in stack.sysctl}
        try:
            stack.sysctl[name] = value
        except (ValueError, KeyError):
            assert before == {path: stack.sysctl[path] for path in stack.sysctl}
    finally:
        stack.close()
