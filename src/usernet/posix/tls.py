"""TLS by the standard library's `ssl` on sockets that are descriptors.

`ssl` reads and writes the descriptor itself. All it needs is that the object it makes of a socket, an `SSLSocket`, asks
the stack for what concerns the network, as the one it was made of did: that it accepts, connects, and knows its
addresses. `SSLContext.sslsocket_class` is ssl's own place to say so; the one put there makes the standard object of
every other socket.
"""

from __future__ import annotations

import ssl
from typing import Any

from usernet.posix.descriptor import DescriptorSocket


class StackSSLSocket(ssl.SSLSocket, DescriptorSocket):  # type: ignore[misc]
    """TLS over a stack's stream. What `ssl` asks of the socket below goes to the second of the two."""


class ChoosingSSLSocket(ssl.SSLSocket):
    """Makes one or the other, by what it is made of."""

    @classmethod
    def _create(cls, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kind: Any = StackSSLSocket if isinstance(sock, DescriptorSocket) else ssl.SSLSocket
        made: ssl.SSLSocket = kind._create(sock, *args, **kwargs)
        return made


def serve_ssl() -> None:
    """Have contexts make `StackSSLSocket`s of stacks' sockets. One that a program put there is left alone."""
    if ssl.SSLContext.sslsocket_class is ssl.SSLSocket:
        ssl.SSLContext.sslsocket_class = ChoosingSSLSocket
