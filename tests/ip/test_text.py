"""Addresses and prefixes as people type them."""

from __future__ import annotations

import errno

import pytest

from usernet.ip.text import parse_address, parse_interface, parse_prefix


def test_what_is_understood():
    assert parse_interface("10.0.0.1/24") == (bytes((10, 0, 0, 1)), 24)
    assert parse_interface("10.0.0.1") == (bytes((10, 0, 0, 1)), 32)
    assert parse_prefix("default") == (bytes(4), 0)
    assert parse_prefix("10.0.0.0/8") == (bytes((10, 0, 0, 0)), 8)
    assert parse_prefix("10.0.0.7") == (bytes((10, 0, 0, 7)), 32)
    assert parse_address("via", "10.0.0.7") == bytes((10, 0, 0, 7))


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/33", "10.0.0.256", "somewhere"])
def test_what_is_not_names_the_field(text: str):
    with pytest.raises(ValueError, match="address: expected"):
        parse_interface(text)
    with pytest.raises(ValueError, match="destination: expected"):
        parse_prefix(text)
    with pytest.raises(ValueError, match="via: expected"):
        parse_address("via", text)


def test_bits_behind_the_prefix():
    with pytest.raises(ValueError, match="host bits"):
        parse_prefix("10.0.0.1/8")


def test_another_family():
    for parse in (parse_interface, parse_prefix, lambda text: parse_address("via", text)):
        with pytest.raises(OSError, match="IPv4 only") as caught:
            parse("fd00::1")
        assert caught.value.errno == errno.EAFNOSUPPORT
