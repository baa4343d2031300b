"""Which stack holds where."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import usernet
from usernet.posix import current, use, using
from usernet.posix.current import chosen
from usernet.stack import Stack


@pytest.fixture
def other() -> Stack:
    return Stack("other")


def test_none_is_chosen() -> None:
    with pytest.raises(RuntimeError, match=r"usernet.use\(stack\)"):
        current()


def test_the_process_stack_holds_in_every_thread_and_executor(stack: Stack) -> None:
    seen: list[Stack] = []
    thread = threading.Thread(target=lambda: seen.append(current()))
    thread.start()
    thread.join()
    with ThreadPoolExecutor() as pool:
        seen.append(pool.submit(current).result())
    assert seen == [stack, stack]
    assert current() is stack


def test_using_holds_for_the_context(stack: Stack, other: Stack) -> None:
    with using(other) as inner:
        assert inner is other
        assert current() is other
        with ThreadPoolExecutor() as pool:
            assert pool.submit(current).result() is stack
        with using(stack):
            assert current() is stack
        assert current() is other
    assert current() is stack


def test_using_holds_in_tasks(stack: Stack, other: Stack) -> None:
    async def inside() -> Stack:
        return current()

    async def main() -> list[Stack]:
        with using(other):
            task = asyncio.create_task(inside())
        return [await task, await inside()]

    assert asyncio.run(main()) == [other, stack]


def test_using_ends_with_an_exception(stack: Stack, other: Stack) -> None:
    with pytest.raises(KeyError), using(other):
        raise KeyError
    assert current() is stack


def test_the_package_has_them() -> None:
    assert usernet.use is use
    assert usernet.using is using


def test_descriptors_are_chosen_with_the_stack(stack: Stack, other: Stack) -> None:
    assert not chosen().descriptors
    with using(other, descriptors=True):
        assert chosen() == (other, True)
        with using(stack):
            assert chosen() == (stack, False)
    use(stack, descriptors=True)
    assert chosen() == (stack, True)
    use(stack)
    assert chosen() == (stack, False)
