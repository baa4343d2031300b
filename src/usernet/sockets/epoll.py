"""The epoll object on a stack's own sockets (Linux: fs/eventpoll.c)."""

from __future__ import annotations


class EpollItem:
    """One socket in one epoll (Linux: `struct epitem`)."""

    def remove(self) -> None:
        """The socket is closed."""
