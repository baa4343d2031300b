from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import around, ip4, ip6, mac, u16
from usernet.wire import ethernet


@given(around, mac, mac, u16, around)
def test_round_trip(before: bytes, dst: bytes, src: bytes, proto: int, after: bytes) -> None:
    header = ethernet.build(dst, src, proto)
    assert len(header) == ethernet.ETH_HLEN
    assert ethernet.parse(before + header + after, len(before)) == (dst, src, proto)


def test_known_frame() -> None:
    frame = bytes.fromhex("ffffffffffff 020000000001 0806 0001")
    assert ethernet.parse(frame, 0) == (ethernet.BROADCAST, b"\x02\0\0\0\0\x01", ethernet.ETH_P_ARP)
    assert ethernet.build(ethernet.BROADCAST, b"\x02\0\0\0\0\x01", ethernet.ETH_P_ARP) == frame[:14]


def test_llc_of_a_spanning_tree_frame() -> None:
    # IEEE 802.1D: to 01:80:c2:00:00:00, length 38, DSAP and SSAP 0x42, unnumbered information
    frame = bytes.fromhex("0180c2000000 020000000001 0026 424203 0000")
    _, _, length = ethernet.parse(frame, 0)
    assert length < ethernet.ETH_P_802_3_MIN
    assert ethernet.parse_llc(frame, ethernet.ETH_HLEN) == (
        ethernet.LLC_SAP_BSPAN,
        ethernet.LLC_SAP_BSPAN,
        ethernet.LLC_PDU_TYPE_UI,
    )


def test_kinds_of_address() -> None:
    unicast = b"\x02\0\0\0\0\x01"
    assert not ethernet.is_multicast(unicast)
    assert ethernet.is_multicast(ethernet.BROADCAST)
    assert ethernet.is_multicast(b"\x01\0\x5e\0\0\x01")
    assert ethernet.is_broadcast(ethernet.BROADCAST)
    assert not ethernet.is_broadcast(unicast)
    assert ethernet.is_valid_ether_addr(unicast)
    for bad in (ethernet.BROADCAST, ethernet.ZERO_MAC, b"\x01\0\x5e\0\0\x01", unicast[:5], b""):
        assert not ethernet.is_valid_ether_addr(bad)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        # RFC 1112 section 6.4: the low 23 bits; 224.128.64.32 and 225.0.64.32 share an address.
        ("e0000001", "01005e000001"),
        ("e0804020", "01005e004020"),
        ("e1004020", "01005e004020"),
        ("efffffff", "01005e7fffff"),
        # RFC 2464 section 7
        ("ff020000000000000000000000000001", "333300000001"),
        ("ff0200000000000000000001ff123456", "3333ff123456"),
    ],
)
def test_mac_of_a_group(group: str, expected: str) -> None:
    assert ethernet.multicast_ip_to_mac(bytes.fromhex(group)).hex() == expected


@given(ip4 | ip6)
def test_a_group_has_a_group_address(group: bytes) -> None:
    assert ethernet.is_multicast(ethernet.multicast_ip_to_mac(group))


@given(mac)
def test_text_round_trip(addr: bytes) -> None:
    text = ethernet.format_mac(addr)
    assert ethernet.parse_mac(text) == addr
    assert ethernet.parse_mac(text.upper().replace(":", "-")) == addr


def test_text() -> None:
    assert ethernet.format_mac(b"\x02\0\0\0\0\xab") == "02:00:00:00:00:ab"


@pytest.mark.parametrize(
    "text",
    ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02:00:00:00:00:0g", "02-00:00:00:00:01", " 2" * 6],
)
def test_text_that_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not a MAC address"):
        ethernet.parse_mac(text)


@given(st.text())
def test_any_text(text: str) -> None:
    try:
        addr = ethernet.parse_mac(text)
    except ValueError:
        return
    assert len(addr) == 6


@given(st.binary(min_size=ethernet.ETH_HLEN + ethernet.LLC_HLEN))
def test_any_bytes(b: bytes) -> None:
    dst, src, proto = ethernet.parse(b, 0)
    assert ethernet.build(dst, src, proto) == b[: ethernet.ETH_HLEN]
    assert bytes(ethernet.parse_llc(b, ethernet.ETH_HLEN)) == b[14:17]
