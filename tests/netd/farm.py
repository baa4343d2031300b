"""Many processes as clients of a service, and the service as a process that tells what it has.

    python farm.py serve PATH                  a stack with lo, served at PATH, until its input ends
    python farm.py hold PATH PROCESSES EACH    connections to a server on that stack, held until the input ends
    python farm.py busy PATH PROCESSES         calls of all kinds, without end; killed a moment after "kill" is read

The processes of a farm are forked off one that has imported everything, so a thousand of them take seconds.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import sys
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from usernet.core.errors import UnusableStackError
from usernet.netd import protocol
from usernet.netd.client import Client

LO = "127.0.0.1"
PORT = 80
GREETING = 81
"""Where the process with the stack has a server of its own, whose sockets need no descriptors."""

ABOVE = 1 << 16


def serve(path: str) -> None:
    from usernet.netd.control import ServedCommand
    from usernet.netd.descriptors import raise_descriptors
    from usernet.netd.server import Server
    from usernet.stack import Stack

    raise_descriptors()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(4096)
    with Stack("many") as stack:
        # Nothing of a connection stays when both its ends are gone.
        stack.sysctl["net.ipv4.tcp_max_tw_buckets"] = 0
        stack.sysctl["net.core.somaxconn"] = 65535
        held: list[Server] = []
        greeter = stack.socket()
        greeter.bind((LO, GREETING))
        greeter.listen(ABOVE - 1)
        accepted: list[Any] = []

        def greet() -> None:
            with suppress(OSError, UnusableStackError):
                while True:
                    one, _ = greeter.accept()
                    one.sendall(b"you are welcome")
                    accepted.append(one)

        def drop(_: Any) -> str:
            """Close some: who carries a command out drives the stack as well, and its packets wait meanwhile."""
            some, accepted[:] = accepted[:200], accepted[200:]
            for one in some:
                one.close()
            return str(len(some))

        thread = threading.Thread(target=greet)
        thread.start()

        def look(_: Any) -> str:
            server = held[0]
            gc.collect()
            objects = Counter(
                type(one).__qualname__ for one in gc.get_objects() if type(one).__module__.startswith("usernet.")
            )
            found: dict[str, Any] = {
                "sessions": len(server.sessions), "sockets": len(server.calls.table), "socks": len(stack.sockets()),
                "brought": len(server._brought), "owners": len(server._owners), "users": len(server._users),
                "blocked": len(stack.loop.blocked), "fds": len(os.listdir("/proc/self/fd")), "objects": objects,
            }  # fmt: skip
            return json.dumps(found)

        tools = {"look": ServedCommand(look, lambda words: True), "drop": ServedCommand(drop, lambda words: True)}
        held.append(Server(stack, listener, commands=tools))
        print("ready", flush=True)
        sys.stdin.buffer.read()
        held[0].close()
    thread.join()


def hold(path: str, processes: int, each: int) -> None:
    told, tell = os.pipe()
    children = [_child(lambda: _connect(path, each, tell)) for _ in range(processes)]
    done = 0
    while done < processes:
        done += len(os.read(told, processes))
    print("ready", flush=True)
    sys.stdin.buffer.read()
    for child in children:
        os.kill(child, signal.SIGTERM)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert all(os.WTERMSIG(status) == signal.SIGTERM for status in statuses), statuses


def _connect(path: str, each: int, tell: int) -> None:
    with Client(path) as client:
        socks = [client.socket() for _ in range(each)]
        for sock in socks:
            sock.connect((LO, GREETING))
        for sock in socks:
            assert sock.recv(100) == b"you are welcome"
        os.write(tell, b".")
        while True:
            signal.pause()


def busy(path: str, processes: int) -> None:
    with Client(path) as client:
        server = client.socket()
        server.bind((LO, PORT))
        server.listen(ABOVE - 1)
        children = [_child(lambda: _misuse(path, server.fileno())) for _ in range(processes)]
        print("ready", flush=True)
        sys.stdin.buffer.readline()
        for child in children:
            os.kill(child, signal.SIGKILL)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        assert all(os.WTERMSIG(status) == signal.SIGKILL for status in statuses), statuses
        server.close()


def _misuse(path: str, listening: int) -> None:
    """Calls of all kinds, some of which wait: whatever it is in when it is killed."""
    chance = random.Random(os.getpid())
    client = Client(path)
    server = client.adopt(listening)
    socks: list[Any] = []
    while True:
        what = chance.randrange(7)
        if what == 0 and len(socks) < 20:
            socks.append(client.socket())
        elif what == 1 and len(socks) < 20:
            sock = client.socket()
            sock.settimeout(1)
            try:
                sock.connect((LO, PORT))
                sock.send(bytes(chance.randrange(1, 200_000)))
            except OSError:
                pass
            socks.append(sock)
        elif what == 2:
            server.settimeout(chance.choice((0.01, 5)))
            try:
                sock, _ = server.accept()
                sock.settimeout(0.2)
                socks.append(sock)
                sock.recv(1 << 16)
            except OSError:
                pass
        elif what == 3:
            sock = client.socket(2, 2)
            sock.bind((LO, 0))
            sock.sendto(b"to myself", sock.getsockname())
            sock.settimeout(0.5)
            sock.recvfrom(100)
            sock.settimeout(chance.choice((0.01, 5)))
            try:
                sock.recvfrom(100)
            except OSError:
                pass
            sock.close()
        elif what == 4 and socks:
            socks.pop(chance.randrange(len(socks))).close()
        elif what == 5:
            # Asked, and not waited for.
            client.connection.request(lambda number: protocol.Open(number, 2, 1, 0), lambda message, fds: None)
        elif socks:
            try:
                chance.choice(socks).getpeername()
            except OSError:
                pass


def _child(work: Any) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    return pid


if __name__ == "__main__":
    numbers = list(map(int, sys.argv[3:]))
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    elif sys.argv[1] == "hold":
        hold(sys.argv[2], numbers[0], numbers[1])
    else:
        busy(sys.argv[2], numbers[0])
