"""`nc`: bytes between a connection and a pair of files, as nc(1) does it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from usernet.cli.tools.common import Lines, Options, Out, Text, UsageError, number, resolve
from usernet.stack import Stack

BLOCK: Final = 65536


def nc(
    stack: Stack,
    *args: str,
    input: BinaryIO | None = None,
    output: BinaryIO | None = None,
    out: Out | None = None,
    spawn: Callable[[Callable[[], None]], Any] | None = None,
) -> Text:
    """`nc` on `stack`: nc(stack, "10.0.0.2", "80", input=file), nc(stack, "-l", "-p", "80", output=file).

    -l: listen, for one connection. -u: UDP. -p PORT: the local one. -s ADDRESS: the local one. -z: only connect. -v:
    say what happens. -w SECONDS: wait no longer, for a connection and for data. -N: shut down sending at the input's
    end, as is done with TCP anyhow.

    input: what to send; None: nothing. output: where to write what is received; None: it is returned. spawn: runs the
    sending half (default: a thread; on virtual time give it `lab.spawn`).

    Returns what it received, as text, unless there is `output`; status 1 where there was no connection. Raises
    UsageError.
    """
    options = Options("nc", "nc [-lnuvzN] [-p PORT] [-s ADDRESS] [-w SECONDS] [HOST] [PORT]")
    for flag, name in (("l", "listen"), ("u", "udp"), ("v", "verbose"), ("z", "zero"), ("n", "numeric"), ("N", "shut")):
        options.add_argument(f"-{flag}", dest=name, action="store_true")
    options.add_argument("-p", dest="local_port", type=number("a port", 0, 65535), default=0)
    options.add_argument("-s", dest="source", default="")
    options.add_argument("-w", dest="patience", type=number("seconds", 0.001, 1e6, float))
    options.add_argument("host", nargs="?")
    options.add_argument("port", nargs="?", type=number("a port", 1, 65535))
    chosen = options.parse(args)
    source = resolve(stack, chosen.source, "-s") if chosen.source else ""
    if chosen.listen:
        if chosen.host is not None and chosen.port is None and not chosen.local_port:
            # nc -l PORT, as the BSDs write it
            chosen.local_port = number("a port", 1, 65535)(chosen.host) if chosen.host.isdecimal() else 0
            chosen.host = None
        if not chosen.local_port:
            raise UsageError("-p: expected a port to listen on, from 1 to 65535")
    elif chosen.host is None or chosen.port is None:
        raise UsageError("host, port: expected both, to connect to")
    peer = ("", 0) if chosen.listen else (resolve(stack, chosen.host), chosen.port)
    lines = Lines(out if chosen.verbose else None)
    kind = socket.SOCK_DGRAM if chosen.udp else socket.SOCK_STREAM
    with stack.socket(socket.AF_INET, kind) as sock:
        if chosen.patience:
            sock.settimeout(chosen.patience)
        try:
            if source or chosen.local_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((source, chosen.local_port))
            connection: Any = sock
            if not chosen.listen:
                sock.connect(peer)
            elif chosen.udp:
                peer = sock.recvfrom(0, socket.MSG_PEEK)[1]
                sock.connect(peer)
            else:
                sock.listen(1)
                connection, peer = sock.accept()
                if chosen.patience:
                    connection.settimeout(chosen.patience)
        except OSError as problem:
            lines.add(f"nc: {'listen' if chosen.listen else f'connect to {peer[0]} port {peer[1]}'}: {problem}")
            return Text("" if output is not None else lines.text(), 1)
        what = f"{peer[0]} {peer[1]} port [{'udp' if chosen.udp else 'tcp'}/*]"
        lines.add(f"Connection from {what} accepted" if chosen.listen else f"Connection to {what} succeeded!")
        try:
            received = b"" if chosen.zero else _exchange(connection, input, output, chosen.udp, spawn or _thread)
        finally:
            connection.close()
    return Text(received.decode(errors="replace"))


def _thread(function: Callable[[], None]) -> None:
    threading.Thread(target=function, name="usernet-nc", daemon=True).start()


def _exchange(
    connection: Any, input: BinaryIO | None, output: BinaryIO | None, udp: bool, spawn: Callable[..., Any]
) -> bytes:
    def send() -> None:
        try:
            while input is not None and (data := input.read1(BLOCK) if hasattr(input, "read1") else input.read(BLOCK)):
                connection.sendall(data)
            if not udp:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the receiving half sees the same, and ends it

    if input is not None:
        spawn(send)
    received = bytearray()
    try:
        while data := connection.recv(BLOCK):
            if output is None:
                received += data
            else:
                output.write(data)
                output.flush()
    except TimeoutError:
        pass  # -w: enough
    except ConnectionError:
        if not udp:
            raise
    return bytes(received)
