"""What systemd and a service of its say to each other: sockets that it has opened, and that the service is ready.

Written from sd_listen_fds(3) and sd_notify(3). Both come in by the environment, and are taken out of it, so that no
child takes them for its own.
"""

from __future__ import annotations

import os
import socket
from typing import Final

LISTEN_FDS_START: Final = 3


def listen_fds() -> list[tuple[str, int]]:
    """The descriptors that were passed to this process, each with its name ("" where it has none), and from now on not
    inherited. Raises ValueError where the environment makes no sense."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "")
    if not pid or not count:
        return []
    if not pid.isdecimal() or not count.isdecimal() or int(count) > 1024:
        raise ValueError(f"LISTEN_PID, LISTEN_FDS: expected two numbers, not {pid!r} and {count!r}")
    if int(pid) != os.getpid():
        return []  # they are for another process, whose environment this one has
    fds = range(LISTEN_FDS_START, LISTEN_FDS_START + int(count))
    labels = names.split(":") if names else [""] * len(fds)
    if len(labels) != len(fds):
        raise ValueError(f"LISTEN_FDNAMES: expected {len(fds)} names, not {names!r}")
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(zip(labels, fds, strict=True))


def listening_socket(fd: int) -> socket.socket:
    """The socket that a passed descriptor is. Raises ValueError where it is none of the service's kind."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as problem:
        raise ValueError(f"descriptor {fd}: expected a socket ({problem.strerror})") from None
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET or not listens:
        sock.detach()
        raise ValueError(f"descriptor {fd}: expected a Unix socket of ListenSequentialPacket=, that listens")
    return sock


def notify(*lines: str) -> bool:
    """Tell the service manager: "READY=1", "STOPPING=1", "STATUS=…". False where there is none, or it does not
    listen."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path or path[0] not in "/@":
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall("\n".join(lines).encode())
        except OSError:
            return False
    return True
