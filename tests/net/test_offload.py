"""What a protocol that has no offload of its own does: none."""

from __future__ import annotations

import random

import pytest

from usernet.core.clock import ManualClock
from usernet.net.offload import Offload, Offloads
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff


def test_nothing_is_merged_by_default():
    offload = Offload()
    assert offload.gro_flow(SKBuff(b"x"), 0) is None
    assert not offload.gro_merge(SKBuff(b"x"), SKBuff(b"y"))
    offload.gro_complete(SKBuff(b"x"))
    with pytest.raises(NotImplementedError, match="must define gso_segment"):
        offload.gso_segment(SKBuff(b"x"))


def test_tables_of_a_namespace():
    one, other = (Net("", ManualClock(), random.Random(1)).get(Offloads) for _ in range(2))
    one.packet[0x0800] = one.transport[(0x0800, 6)] = Offload()
    assert not other.packet
    assert not other.transport
