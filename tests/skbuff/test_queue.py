"""The queue against a plain list."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKBuff


def test_empty():
    queue = SKBuffQueue()
    assert not queue
    assert len(queue) == 0
    assert queue.bytes == 0
    assert queue.popleft() is None
    assert queue.take() == []
    assert list(queue) == []


def test_the_current_packet_may_be_unlinked_on_the_way():
    queue = SKBuffQueue()
    packets = [SKBuff(bytes(i)) for i in range(6)]
    for skb in packets:
        queue.append(skb)
    for skb in queue:
        if skb.len % 2:
            queue.unlink(skb)
    assert list(queue) == packets[::2]


def test_a_queued_packet_changes_its_length():
    queue = SKBuffQueue()
    skb = SKBuff(bytes(100))
    queue.append(skb)
    skb.pull_front(40)
    queue.resized(-40)
    assert queue.bytes == 60
    queue.popleft()
    assert queue.bytes == 0


def _is_free(skb: SKBuff) -> bool:
    return (skb.next, skb.prev, skb.queue) == (None, None, None)


class AgainstAList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = SKBuffQueue()
        self.model: list[SKBuff] = []

    @rule(size=st.integers(0, 50))
    def append(self, size: int) -> None:
        skb = SKBuff(bytes(size))
        self.queue.append(skb)
        self.model.append(skb)

    @rule(size=st.integers(0, 50))
    def appendleft(self, size: int) -> None:
        skb = SKBuff(bytes(size))
        self.queue.appendleft(skb)
        self.model.insert(0, skb)

    @precondition(lambda self: self.model)
    @rule(where=st.integers(0, 100), size=st.integers(0, 50), after=st.booleans())
    def insert(self, where: int, size: int, after: bool) -> None:
        where %= len(self.model)
        skb = SKBuff(bytes(size))
        if after:
            self.queue.insert_after(self.model[where], skb)
        else:
            self.queue.insert_before(self.model[where], skb)
        self.model.insert(where + after, skb)

    @rule()
    def popleft(self) -> None:
        skb = self.queue.popleft()
        assert skb is (self.model.pop(0) if self.model else None)
        assert skb is None or _is_free(skb)

    @precondition(lambda self: self.model)
    @rule(where=st.integers(0, 100), again=st.booleans())
    def unlink(self, where: int, again: bool) -> None:
        skb = self.model.pop(where % len(self.model))
        self.queue.unlink(skb)
        if again:
            # A packet that was taken out can be queued anew, here or elsewhere.
            self.queue.append(skb)
            self.model.append(skb)

    @rule()
    def take(self) -> None:
        assert self.queue.take() == self.model
        assert all(map(_is_free, self.model))
        self.model.clear()

    @invariant()
    def it_is_the_list(self) -> None:
        queue, model = self.queue, self.model
        assert list(queue) == model
        assert len(queue) == queue.qlen == len(model)
        assert bool(queue) == bool(model)
        assert queue.bytes == sum(skb.len for skb in model)
        assert queue.first is (model[0] if model else None)
        assert queue.last is (model[-1] if model else None)
        backwards: list[SKBuff] = []
        skb = queue.last
        while skb is not None:
            assert skb.queue is queue
            backwards.append(skb)
            skb = skb.prev
        assert backwards == model[::-1]


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(stateful_step_count=40)
