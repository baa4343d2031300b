"""A socket as a real descriptor: what is written to it the stack sends, what the stack receives can be read from it.

`open_channel` makes one of any socket (channel.py says how it is done), with the stack's lock held:

    channel = open_channel(socket)         # the channel holds `socket` from now on
    fd = channel.fd_app                    # an ordinary descriptor, for read, write, poll, sendfile, TLS libraries
    channel.release_app()                  # once it was passed on: whoever has it closes it, and so the socket
"""

from __future__ import annotations

from usernet.posix.channel.channel import Channel, app_open, channel_of
from usernet.posix.channel.datagram import DatagramChannel
from usernet.posix.channel.stream import StreamChannel
from usernet.sockets.socket import Socket

__all__ = ["Channel", "DatagramChannel", "StreamChannel", "app_open", "channel_of", "open_channel"]

_SOCK_STREAM = 1


def open_channel(socket: Socket) -> Channel:
    """A channel of `socket`, whose reference passes on to it. With the stack's lock held.

    Raises OSError: EMFILE, EOPNOTSUPP on virtual time; UnusableStackError where nothing drives the stack.
    """
    if socket.type == _SOCK_STREAM:
        return StreamChannel(socket)
    return DatagramChannel(socket)
