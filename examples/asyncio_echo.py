"""asyncio on a stack: with `descriptors=True` its sockets are real descriptors, which an event loop can watch.

    python examples/asyncio_echo.py
"""

from __future__ import annotations

import asyncio

import usernet
import usernet.socket
from usernet import drivers

CLIENTS = 20


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A client of the server: each line goes back in capitals."""
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


async def ask(number: int) -> str:
    """What the server makes of a line."""
    reader, writer = await asyncio.open_connection("10.0.0.2", 7)
    writer.write(b"hello from client %d\n" % number)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode().strip()


async def main() -> None:
    near, far = drivers.veth(delay=0.010)
    with usernet.Stack("server") as there, usernet.Stack("client") as here:
        there.add_device(far, "eth0", "10.0.0.2/24")
        here.add_device(near, "eth0", "10.0.0.1/24")

        with usernet.using(there, descriptors=True):
            listener = usernet.socket.create_server(("10.0.0.2", 7))
        server = await asyncio.start_server(answer, sock=listener)
        async with server:
            with usernet.patched(here, descriptors=True):
                for line in await asyncio.gather(*(ask(number) for number in range(CLIENTS))):
                    print(line)


if __name__ == "__main__":
    asyncio.run(main())
