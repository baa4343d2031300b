"""The client for asyncio: its calls, many at once, cancelled at any moment, and when the service ends."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netd.serving import LO, Served, serving
from tests.support.stacks import PATIENCE, until
from usernet.netd import protocol
from usernet.netd.client import AsyncClient, RemoteSocket, ServiceError

MANY = 60


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as made:
        yield made


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), PATIENCE)

    asyncio.run(bounded())


async def listener(client: AsyncClient, port: int = 80, backlog: int = 128) -> RemoteSocket:
    sock = await client.socket()
    await client.bind(sock, (LO, port))
    await client.listen(sock, backlog)
    return sock


def test_a_connection(served: Served):
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClient(served.path) as client:
            server = await listener(client)
            sock = await client.socket()
            accepting = asyncio.create_task(client.accept(server))
            await client.connect(sock, (LO, 80))
            connection, peer = await accepting
            assert peer == await client.getsockname(sock)
            assert not connection.getblocking()
            await loop.sock_sendall(sock, b"by the descriptor")
            assert await loop.sock_recv(connection, 100) == b"by the descriptor"
            sock.close()
            assert await loop.sock_recv(connection, 100) == b""
            assert "LISTEN" in await client.command("ss", "-tan")
            for one in (server, connection):
                one.close()
            # What is no more is in no table here.
            while client.sockets:
                await asyncio.sleep(0.01)

    run(work)


def test_what_goes_wrong(served: Served):
    async def work() -> None:
        async with AsyncClient(served.path) as client:
            sock, other = await client.socket(), await listener(client, 99)
            for call, code in (
                (client.connect(sock, (LO, 80)), errno.ECONNREFUSED), (client.accept(sock), errno.EINVAL),
                (client.bind(sock, (LO, 99)), errno.EADDRINUSE), (client.socket(10), errno.EAFNOSUPPORT),
                (client.bind(sock, ("192.0.2.1", 9)), errno.EADDRNOTAVAIL), (client.command("none"), errno.ENOENT),
            ):  # fmt: skip
                with pytest.raises(OSError) as caught:
                    await call
                assert caught.value.errno == code, call
            # The descriptor is spent with the connection that was refused; another one takes its place.
            number = sock.fileno()
            await client.connect(sock, (LO, 99))
            assert sock.fileno() == number
            connection, peer = await client.accept(other)
            assert peer == await client.getsockname(sock)
            with pytest.raises(TypeError, match="AsyncClient"):
                sock.getsockname()
            for one in (sock, other, connection):
                one.close()

    run(work)


def test_many_at_once(served: Served):
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClient(served.path) as client, AsyncClient(served.path) as other:
            server = await listener(client, backlog=MANY)

            async def serve() -> None:
                connection, _ = await client.accept(server)
                await loop.sock_sendall(connection, await loop.sock_recv(connection, 100))
                connection.close()

            async def ask(number: int) -> bytes:
                sock = await other.socket()
                await other.connect(sock, (LO, 80))
                await loop.sock_sendall(sock, b"%d" % number)
                answer = await loop.sock_recv(sock, 100)
                sock.close()
                return answer

            serving_all = [asyncio.create_task(serve()) for _ in range(MANY)]
            answers = await asyncio.gather(*(ask(number) for number in range(MANY)))
            await asyncio.gather(*serving_all)
            assert answers == [b"%d" % number for number in range(MANY)]
            server.close()

    run(work)


def test_a_cancelled_accept_loses_no_connection(served: Served):
    async def work() -> None:
        async with AsyncClient(served.path) as client:
            server = await listener(client)
            for turns in range(30):
                accepting = asyncio.create_task(client.accept(server))
                # Cancelled before it is sent, on its way, when it is answered, and behind that.
                sock = await client.socket()
                connecting = asyncio.create_task(client.connect(sock, (LO, 80)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                accepting.cancel()
                await connecting
                try:
                    connection, peer = await accepting
                except asyncio.CancelledError:
                    connection, peer = await client.accept(server)
                assert peer == await client.getsockname(sock)
                connection.close()
                sock.close()
            server.close()
        until(lambda: not served.sockets)

    run(work)


def test_cancelled_calls_leave_nothing(served: Served):
    async def work() -> None:
        async with AsyncClient(served.path) as client:
            server = await listener(client)
            for turns in range(6):
                opening = asyncio.create_task(client.socket())
                accepting = asyncio.create_task(client.accept(server))
                for _ in range(turns):
                    await asyncio.sleep(0.002)
                opening.cancel()
                accepting.cancel()
                for done in await asyncio.gather(opening, accepting, return_exceptions=True):
                    if isinstance(done, RemoteSocket):
                        done.close()
            await client.getsockname(server)
            while served.sockets > 1:
                await asyncio.sleep(0.01)
            (session,) = served.server.sessions
            assert not session._under_way and not session._prepared
            server.close()

    run(work)


def test_answered_and_cancelled_in_the_same_turn(served: Served):
    async def work() -> None:
        async with AsyncClient(served.path) as client:
            opening = asyncio.create_task(client.socket())
            while not client.connection._answers:
                await asyncio.sleep(0)
            # The answer is read here, and the task has not had its turn yet.
            client.connection.wait(PATIENCE)
            client._read()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            while served.sockets:
                await asyncio.sleep(0.01)

    run(work)


def test_the_service_ends(tmp_path: Path):
    async def work() -> None:
        with serving(tmp_path) as served:
            async with AsyncClient(served.path) as client:
                server = await listener(client)
                waiting = [asyncio.create_task(client.accept(server)) for _ in range(3)]
                while len(next(iter(served.server.sessions))._under_way) < 3:
                    await asyncio.sleep(0.01)
                await asyncio.get_running_loop().run_in_executor(None, served.server.close)
                for task in waiting:
                    with pytest.raises(ServiceError):
                        await task
                for call in (client.socket(), client.getsockname(server), client.accept(server)):
                    with pytest.raises(ServiceError):
                        await call
                server.close()

    run(work)


def test_a_client_that_is_closed(served: Served):
    async def work() -> None:
        client = AsyncClient(served.path)
        with pytest.raises(ServiceError, match="not connected"):
            await client.socket()
        async with client:
            server = await listener(client)
            accepting = asyncio.create_task(client.accept(server))
            await asyncio.sleep(0.01)
            client.close()
            client.close()
            with pytest.raises(ServiceError):
                await accepting
            with pytest.raises(ServiceError):
                await client.socket()
        # The socket goes on by its descriptor.
        assert served.sockets == 1
        server.close()

    run(work)
    with pytest.raises(ServiceError, match="no service of stack"):
        run(lambda: AsyncClient("/nowhere").__aenter__())  # type: ignore[arg-type, return-value]


def test_a_descriptor_is_asked_for(served: Served):
    """A stream whose connection came while its descriptor was out of the service's reach."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClient(served.path) as client:
            server = await listener(client)
            sock = await client.socket()
            await client.connect(sock, (LO, 80))
            # The listener is readable: a mark lies in its descriptor, which takes that to be taken out again.
            await loop.run_in_executor(None, until, lambda: _readable(server))
            connection, _ = await client.accept(server)
            while _readable(server):
                await asyncio.sleep(0.01)
            message, fds = await client.call(lambda number: protocol.Duplicate(number), (sock.fileno(),))
            assert message.handle == sock.handle and not fds
            for one in (server, sock, connection):
                one.close()

    run(work)


def _readable(sock: RemoteSocket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_one_whose_loop_is_gone(served: Served):
    kept: list[AsyncClient] = []

    async def work() -> None:
        kept.append(await AsyncClient(served.path).__aenter__())

    run(work)
    kept[0].close()
    until(lambda: not served.server.sessions)
    assert os.path.exists(served.path)
