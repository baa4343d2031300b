"""A route as those who send along it hold it."""

from __future__ import annotations

import pytest

from usernet.net.dst import RTAX_INITCWND, RTAX_MTU, Dst
from usernet.skbuff.skbuff import SKBuff


def test_it_holds_until_it_is_obsolete():
    dst = Dst(None, b"peer", b"self", None)
    assert dst.valid()
    dst.obsolete = True
    assert not dst.valid()


def test_metrics():
    dst = Dst(None, b"peer", b"self", b"gate")
    assert dst.metric(RTAX_MTU) == 0
    dst.metrics[RTAX_INITCWND] = 20
    assert dst.metric(RTAX_INITCWND) == 20
    assert not dst.mtu_locked()


def test_what_a_network_layer_must_define():
    dst = Dst(None, b"peer", b"self", None)
    for call in (dst.mtu, dst.advmss, lambda: dst.output(SKBuff())):
        with pytest.raises(NotImplementedError):
            call()
    dst.update_pmtu(1280)
    dst.confirm()
