"""The names that scripts have for types and codes of ICMP messages (RFC 792, RFC 4443), for both versions.

Used by `parser` to know a name, and by what builds and prints packets to give it a number. `type_42` and `code_7` name
what has no name, as tcpdump does.
"""

from __future__ import annotations

import re
from typing import Final

from usernet.wire import icmp

ICMPV6_DEST_UNREACH: Final = 1
ICMPV6_PKT_TOOBIG: Final = 2
ICMPV6_TIME_EXCEED: Final = 3
ICMPV6_PARAMPROB: Final = 4
ICMPV6_ECHO_REQUEST: Final = 128
ICMPV6_ECHO_REPLY: Final = 129

_V4_TYPES: Final = {
    "echo_reply": icmp.ICMP_ECHOREPLY,
    "unreachable": icmp.ICMP_DEST_UNREACH,
    "source_quench": icmp.ICMP_SOURCE_QUENCH,
    "redirect": icmp.ICMP_REDIRECT,
    "echo_request": icmp.ICMP_ECHO,
    "time_exceeded": icmp.ICMP_TIME_EXCEEDED,
    "parameter_problem": icmp.ICMP_PARAMETERPROB,
    "timestamp_request": icmp.ICMP_TIMESTAMP,
    "timestamp_reply": icmp.ICMP_TIMESTAMPREPLY,
    "information_request": icmp.ICMP_INFO_REQUEST,
    "information_reply": icmp.ICMP_INFO_REPLY,
    "address_mask_request": icmp.ICMP_ADDRESS,
    "address_mask_reply": icmp.ICMP_ADDRESSREPLY,
}
_V4_CODES: Final = {
    "unreachable": {
        "net_unreachable": icmp.ICMP_NET_UNREACH,
        "host_unreachable": icmp.ICMP_HOST_UNREACH,
        "protocol_unreachable": icmp.ICMP_PROT_UNREACH,
        "port_unreachable": icmp.ICMP_PORT_UNREACH,
        "frag_needed": icmp.ICMP_FRAG_NEEDED,
        "source_route_failed": icmp.ICMP_SR_FAILED,
        "net_unknown": icmp.ICMP_NET_UNKNOWN,
        "host_unknown": icmp.ICMP_HOST_UNKNOWN,
        "source_host_isolated": icmp.ICMP_HOST_ISOLATED,
        "net_prohibited": icmp.ICMP_NET_ANO,
        "host_prohibited": icmp.ICMP_HOST_ANO,
        "net_unreachable_for_tos": icmp.ICMP_NET_UNR_TOS,
        "host_unreachable_for_tos": icmp.ICMP_HOST_UNR_TOS,
        "packet_filtered": icmp.ICMP_PKT_FILTERED,
        "precedence_violation": icmp.ICMP_PREC_VIOLATION,
        "precedence_cutoff": icmp.ICMP_PREC_CUTOFF,
    }
}
_V6_TYPES: Final = {
    "unreachable": ICMPV6_DEST_UNREACH,
    "packet_too_big": ICMPV6_PKT_TOOBIG,
    "time_exceeded": ICMPV6_TIME_EXCEED,
    "parameter_problem": ICMPV6_PARAMPROB,
    "echo_request": ICMPV6_ECHO_REQUEST,
    "echo_reply": ICMPV6_ECHO_REPLY,
}
_V6_CODES: Final = {
    "unreachable": {
        "net_unreachable": 0,
        "no_route": 0,
        "admin_prohibited": 1,
        "not_neighbour": 2,
        "address_unreachable": 3,
        "port_unreachable": 4,
    },
    "time_exceeded": {"exceeded_hop_limit": 0, "exceeded_frag_time": 1},
    "parameter_problem": {"header_field": 0, "unknown_next_header": 1, "unknown_option": 2},
}
_NUMBERED_TYPE: Final = re.compile(r"type_([0-9]{1,3})")
_NUMBERED_CODE: Final = re.compile(r"code_([0-9]{1,3})")


def _types(version: int) -> dict[str, int]:
    return _V4_TYPES if version == 4 else _V6_TYPES


def _codes(version: int, name: str) -> dict[str, int]:
    return (_V4_CODES if version == 4 else _V6_CODES).get(name, {})


def _numbered(pattern: re.Pattern[str], name: str) -> int | None:
    match = pattern.fullmatch(name)
    return int(match[1]) if match and int(match[1]) <= 255 else None


def type_number(version: int, name: str) -> int | None:
    """The number of a type for IP version 4 or 6; None where that version has none of this name."""
    number = _numbered(_NUMBERED_TYPE, name)
    return number if number is not None else _types(version).get(name)


def code_number(version: int, type_name: str, name: str) -> int | None:
    """The number of a code of a type; 0 for no name at all, None where that version has none of this name."""
    if not name:
        return 0
    number = _numbered(_NUMBERED_CODE, name)
    return number if number is not None else _codes(version, type_name).get(name)


def names(version: int, type: int, code: int) -> tuple[str, str]:
    """The names of a message's type and code, `type_N` and `code_N` where there is none; no name for code 0."""
    type_name = next((name for name, number in _types(version).items() if number == type), f"type_{type}")
    codes = _codes(version, type_name)
    unnamed = f"code_{code}" if code else ""
    return type_name, next((name for name, number in codes.items() if number == code), unnamed)


def knows_type(name: str) -> bool:
    """Whether either version has a type of this name."""
    return type_number(4, name) is not None or type_number(6, name) is not None


def knows_code(type_name: str, name: str) -> bool:
    """Whether either version has a code of this name for this type."""
    return code_number(4, type_name, name) is not None or code_number(6, type_name, name) is not None


def type_list() -> str:
    """All names of types, for a message."""
    return ", ".join(dict.fromkeys([*_V4_TYPES, *_V6_TYPES])) + " or type_N"


def code_list(type_name: str) -> str:
    """All names of a type's codes, for a message."""
    return ", ".join(dict.fromkeys([*_codes(4, type_name), *_codes(6, type_name), "code_N"]))
