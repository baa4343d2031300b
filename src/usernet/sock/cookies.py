"""Numbers that name sockets: SO_COOKIE, SO_NETNS_COOKIE, and what `ss` shows (Linux: net/core/sock_diag.c)."""

from __future__ import annotations

from typing import final

from usernet.net.pernet import Net
from usernet.sock.sock import Sock


@final
class SockCookies:
    """Numbers that name the sockets of a namespace, and the namespace itself (Linux: sock_gen_cookie, net_cookie)."""

    def __init__(self, net: Net) -> None:
        self.netns: int = net.random.getrandbits(63) | 1
        self._last: int = 0

    def of(self, sk: Sock) -> int:
        """The socket's number, given when first asked for; never 0, never given twice."""
        if not sk.cookie:
            self._last += 1
            sk.cookie = self._last
        return sk.cookie
