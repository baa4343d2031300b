from __future__ import annotations

import pytest

from usernet.cli import units


def test_times_rates_fractions_sizes():
    assert units.parse_time("10ms") == pytest.approx(0.01)
    assert units.parse_time("0.5") == 0.5
    assert units.parse_time("20us") == pytest.approx(2e-5)
    assert units.parse_rate("50mbit") == 50e6
    assert units.parse_rate("1Gbit") == 1e9
    assert units.parse_rate("1mbps") == 8e6
    assert units.parse_rate("0") == 0
    assert units.parse_fraction("1%") == pytest.approx(0.01)
    assert units.parse_fraction(".5") == 0.5
    assert units.parse_size("4M") == 4 << 20
    assert units.parse_size("200k") == 200 << 10
    assert units.parse_size("1500") == 1500


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.parse_time, "10 hours"),
        (units.parse_time, "-1"),
        (units.parse_rate, "fast"),
        (units.parse_fraction, "101%"),
        (units.parse_fraction, "1.5"),
        (units.parse_size, "4X"),
        (units.parse_size, ""),
    ],
)
def test_what_is_none_is_named(parse, text):
    with pytest.raises(ValueError, match="expected") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


def test_formats():
    assert units.format_bytes(512) == "512 B"
    assert units.format_bytes(4 << 20) == "4.0 MiB"
    assert units.format_bytes(5 << 30) == "5.0 GiB"
    assert units.format_rate(999) == "999 bit/s"
    assert units.format_rate(48.2e6) == "48.2 Mbit/s"
    assert units.format_rate(2e9) == "2 Gbit/s"
    assert units.format_time(0.0204) == "20.4 ms"
    assert units.format_time(2e-5) == "20 µs"
    assert units.format_time(3) == "3 s"
