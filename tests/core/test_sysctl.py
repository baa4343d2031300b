"""Sysctls: by name, typed, within their bounds, and unchanged where a value is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernet.core.sysctl import INT_MAX, INT_MIN, SysctlTable


class Settings:
    """What a layer keeps."""

    def __init__(self) -> None:
        self.tcp_sack: int = 1
        self.tcp_rmem: tuple[int, ...] = (4096, 131072, 6291456)
        self.congestion: str = "cubic"
        self.host: str = ""
        self.changed: int = 0

    def note(self) -> None:
        self.changed += 1


def table(holder: Settings) -> SysctlTable:
    made = SysctlTable()
    made.register("net.ipv4.tcp_sack", holder, low=0, high=1, on_change=holder.note)
    made.register("net.ipv4.tcp_rmem", holder, low=1)
    made.register("net.ipv4.tcp_congestion_control", holder, "congestion", choices=lambda: ["cubic", "reno"])
    made.register("kernel.hostname", holder, "host")
    return made


def test_by_name_with_dots_or_slashes():
    holder = Settings()
    sysctl = table(holder)
    sysctl["net.ipv4.tcp_sack"] = 0
    assert holder.tcp_sack == 0
    assert sysctl["net/ipv4/tcp_sack"] == 0
    sysctl["net/ipv4/tcp_sack"] = "1"
    assert holder.tcp_sack == 1
    assert holder.changed == 2
    assert "net.ipv4.tcp_sack" in sysctl
    assert "net/ipv4/tcp_sack" in sysctl
    assert "net.ipv4.nothing" not in sysctl
    assert 5 not in sysctl
    assert list(sysctl) == sorted(sysctl)
    assert len(sysctl) == 4


def test_what_is_not_there():
    sysctl = table(Settings())
    with pytest.raises(KeyError, match=r"no sysctl named 'net\.ipv6\.conf'"):
        sysctl["net.ipv6.conf"]
    with pytest.raises(KeyError):
        sysctl["net.ipv6.conf"] = 1


@given(st.integers(INT_MIN * 4, INT_MAX * 4), st.booleans())
def test_an_integer_within_its_bounds_and_no_other(value, text):
    holder = Settings()
    sysctl = SysctlTable()
    low, high = -5, 1000
    sysctl.register("a.tcp_sack", holder, low=low, high=high)
    given_value = str(value) if text else value
    if low <= value <= high:
        sysctl["a.tcp_sack"] = given_value
        assert sysctl["a.tcp_sack"] == holder.tcp_sack == value
    else:
        with pytest.raises(ValueError, match=f"a.tcp_sack: expected -5 to 1000, not {value}"):
            sysctl["a.tcp_sack"] = given_value
        assert holder.tcp_sack == 1
    assert sysctl.default("a.tcp_sack") == 1


@pytest.mark.parametrize("bound", [0, 1, INT_MAX])
def test_default_bounds(bound):
    holder = Settings()
    sysctl = SysctlTable()
    sysctl.register("a.tcp_sack", holder)
    sysctl["a.tcp_sack"] = bound
    assert holder.tcp_sack == bound
    for wrong in (-1, INT_MAX + 1):
        with pytest.raises(ValueError):
            sysctl["a.tcp_sack"] = wrong


@pytest.mark.parametrize("value", ["", "one", "1.5", 1.5, (1,), "1 0"])
def test_no_integer(value):
    holder = Settings()
    sysctl = table(holder)
    with pytest.raises(ValueError, match="tcp_sack: expected"):
        sysctl["net.ipv4.tcp_sack"] = value
    assert (holder.tcp_sack, holder.changed) == (1, 0)


def test_hexadecimal_as_the_kernel_takes_it():
    holder = Settings()
    sysctl = SysctlTable()
    sysctl.register("a.tcp_sack", holder)
    sysctl["a.tcp_sack"] = "0x1F"
    assert holder.tcp_sack == 31


def test_a_row_of_integers():
    holder = Settings()
    sysctl = table(holder)
    sysctl["net.ipv4.tcp_rmem"] = "1 2\t3"
    assert holder.tcp_rmem == (1, 2, 3)
    sysctl["net.ipv4.tcp_rmem"] = (4, 5, 6)
    assert sysctl["net.ipv4.tcp_rmem"] == (4, 5, 6)
    for wrong in ("1 2", (1, 2, 3, 4), 7, "1 2 x", (0, 1, 2), (1, 2, INT_MAX + 1)):
        with pytest.raises(ValueError, match="tcp_rmem: expected"):
            sysctl["net.ipv4.tcp_rmem"] = wrong
    assert holder.tcp_rmem == (4, 5, 6)


def test_words():
    holder = Settings()
    sysctl = table(holder)
    sysctl["net.ipv4.tcp_congestion_control"] = "reno"
    assert holder.congestion == "reno"
    with pytest.raises(ValueError, match="expected one of cubic, reno, not 'bbr'"):
        sysctl["net.ipv4.tcp_congestion_control"] = "bbr"
    assert holder.congestion == "reno"
    sysctl["kernel.hostname"] = "left"
    assert holder.host == "left"


def test_a_device_goes_away():
    sysctl = SysctlTable()
    holders = [Settings() for _ in range(3)]
    for name, holder in zip(("eth0", "eth01", "all"), holders, strict=True):
        sysctl.register(f"net.ipv4.conf.{name}.tcp_sack", holder)
    sysctl.unregister("net.ipv4.conf.eth0")
    assert list(sysctl) == ["net.ipv4.conf.all.tcp_sack", "net.ipv4.conf.eth01.tcp_sack"]


def test_what_is_only_read():
    class Holder:
        @property
        def size(self) -> int:
            return 7

    table = SysctlTable()
    table.register("a.size", Holder(), read_only=True)
    assert table["a.size"] == 7
    with pytest.raises(ValueError, match="can't be set"):
        table["a.size"] = 8


def test_what_is_put_off_comes_in_its_order():
    sysctl = SysctlTable()
    holder = Settings()
    sysctl.later(lambda: sysctl.register("net.ipv4.conf.eth0.tcp_sack", holder))
    sysctl.unregister("net.ipv4.conf.eth0")
    assert list(sysctl) == []
    sysctl.unregister("net.ipv4.conf.eth1")
    sysctl.register_rows("net.ipv4.conf.eth1", holder, (("tcp_sack", 0, 1), ("changed", 0, 9)))
    assert list(sysctl) == ["net.ipv4.conf.eth1.changed", "net.ipv4.conf.eth1.tcp_sack"]


def test_devices_that_come_and_go_leave_nothing_though_nobody_looks():
    sysctl = SysctlTable()
    holder = Settings()
    for number in range(1000):
        sysctl.register(f"net.ipv4.conf.eth{number}.tcp_sack", holder)
        sysctl.unregister(f"net.ipv4.conf.eth{number}")
    assert len(sysctl._later) <= 200
    assert list(sysctl) == []
