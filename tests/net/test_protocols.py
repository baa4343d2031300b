"""Transport protocols by number, and what they are told of errors."""

from __future__ import annotations

import errno
import random

import pytest

from usernet.core.clock import ManualClock
from usernet.net.pernet import Net
from usernet.net.protocols import ErrorReport, NetProtocol, Protocols
from usernet.skbuff.skbuff import SKBuff


def test_one_protocol_a_number():
    protocols = Net("", ManualClock(), random.Random(1)).get(Protocols)
    udp = NetProtocol()
    protocols.register(17, udp)
    assert protocols.table == {17: udp}
    with pytest.raises(ValueError, match="IP protocol 17 is registered already"):
        protocols.register(17, NetProtocol())
    assert protocols.raw_deliver is None
    assert protocols.raw_error is None


def test_what_a_protocol_need_not_define():
    protocol = NetProtocol()
    skb = SKBuff()
    assert not protocol.early_demux(skb)
    report = ErrorReport(None, errno.ECONNREFUSED, True, 2, 3, 3, 0, 0, b"gate", b"self", b"peer", skb)
    assert not protocol.error(report)
    assert (report.errno, report.fatal, report.saddr, report.daddr, report.offender) == (
        errno.ECONNREFUSED, True, b"self", b"peer", b"gate",
    )  # fmt: skip
    assert not report.redirect
    assert not report.quench
    with pytest.raises(NotImplementedError, match="must define receive"):
        protocol.receive(skb)
