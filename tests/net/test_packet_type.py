"""Packet types and taps: who takes a packet, and who is shown it."""

from __future__ import annotations

import random

import pytest

from usernet.core.clock import ManualClock
from usernet.net.packet_type import ETH_P_ALL, PacketTypes, Tap
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff

IP, ARP = 0x0800, 0x0806


@pytest.fixture
def types() -> PacketTypes:
    return Net("", ManualClock(), random.Random(1)).get(PacketTypes)


def packet(protocol: int, dev: object = None, sk: object = None) -> SKBuff:
    skb = SKBuff(b"x")
    skb.protocol = protocol
    skb.dev = dev
    skb.sk = sk
    return skb


def test_one_handler_an_ethertype(types):
    types.register(IP, lambda skb: None)
    types.register(ARP, lambda skb: None)
    with pytest.raises(ValueError, match="EtherType 0x0800 has a handler already"):
        types.register(IP, lambda skb: None)
    assert set(types.handlers) == {IP, ARP}


def test_taps_by_protocol_and_device(types):
    eth0, eth1 = object(), object()
    seen: list[str] = []
    for name, protocol, dev in (("all", ETH_P_ALL, None), ("all on eth1", ETH_P_ALL, eth1), ("ip on eth0", IP, eth0)):
        types.add_tap(Tap(lambda skb, name=name: seen.append(name), protocol, dev))  # type: ignore[misc]
    types.show(packet(IP, eth0), outgoing=False)
    assert seen == ["all", "ip on eth0"]
    seen.clear()
    types.show(packet(ARP, eth1), outgoing=False)
    assert seen == ["all", "all on eth1"]
    seen.clear()
    types.show(packet(IP, eth0), outgoing=True)
    assert seen == ["all"]


def test_a_socket_is_not_shown_what_it_sent_itself(types):
    sk = object()
    seen: list[SKBuff] = []
    types.add_tap(Tap(seen.append, owner=sk))
    own, others = packet(IP, sk=sk), packet(IP, sk=object())
    types.show(own, outgoing=True)
    types.show(others, outgoing=True)
    types.show(own, outgoing=False)
    assert seen == [others, own]


def test_a_tap_may_go_while_it_is_shown_a_packet(types):
    seen: list[str] = []

    def once(skb: SKBuff) -> None:
        seen.append("once")
        types.remove_tap(tap)

    tap = Tap(once)
    types.add_tap(tap)
    types.add_tap(Tap(lambda skb: seen.append("always")))
    types.show(packet(IP), outgoing=False)
    types.show(packet(IP), outgoing=False)
    types.remove_tap(tap)
    assert seen == ["once", "always", "always"]
