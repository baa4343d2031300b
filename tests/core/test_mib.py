"""Counters: attributes on the data path, mappings for people, one set per stack."""

from __future__ import annotations

import pytest

from tests.support.compiled import interpreted_only
from usernet.core.mib import Mib, MibGroup


@interpreted_only
def test_a_counter_costs_nothing_until_it_is_touched():
    mib = Mib()
    assert vars(mib.tcp) == {}
    assert mib.tcp.RetransSegs == 0
    mib.tcp.RetransSegs += 1
    assert mib["Tcp"]["RetransSegs"] == 1
    assert vars(mib.tcp) == {"RetransSegs": 1}


def test_each_stack_has_its_own():
    one, other = Mib(), Mib()
    one.udp.InDatagrams += 5
    assert other.udp.InDatagrams == 0


def test_groups_by_the_names_of_proc():
    mib = Mib()
    assert list(mib) == ["Ip", "Icmp", "Tcp", "Udp", "UdpLite", "IpExt", "TcpExt", "IcmpMsg"]
    with pytest.raises(KeyError, match="no group of counters named 'Dccp'; there are: Ip, "):
        mib["Dccp"]


def test_a_group_is_a_mapping():
    group = Mib()["Ip"]
    names = list(group)
    assert names[:3] == ["Forwarding", "DefaultTTL", "InReceives"]
    assert len(group) == len(names)
    group.increment("InReceives")
    group.increment("InReceives", 4)
    assert group["InReceives"] == 5
    for wrong in ("NoSuch", "increment", "__doc__"):
        with pytest.raises(KeyError, match="no counter named"):
            group[wrong]
    with pytest.raises(KeyError):
        group.increment("NoSuch")


def test_icmp_messages_come_as_they_are_seen():
    group = Mib()["IcmpMsg"]
    assert group["OutType3"] == 0
    assert len(group) == 0
    group.increment("OutType3")
    group.increment("InType8", 2)
    assert list(group) == ["InType8", "OutType3"]
    assert dict(zip(group, (group[name] for name in group), strict=True)) == {"InType8": 2, "OutType3": 1}


def test_a_layer_adds_its_own():
    class MyMib(MibGroup):
        Seen: int = 0

    mib = Mib()
    own = MyMib()
    mib.register("My", own)
    own.Seen += 1
    assert mib["My"]["Seen"] == 1
    assert "My" in list(mib)
