"""A socket as Python programs use it: what the standard `_socket.socket` is to `socket.socket`.

`SocketHandle`, and with it the calls that move data, which sockets/transfer.py makes. It has slots and no weak
references, so that the standard library's own socket class can stand on it.
"""

from __future__ import annotations

import errno
import sys
from typing import Any

from usernet.core.errors import error
from usernet.core.iov import CollectIter
from usernet.sock.msg import MSG_CTRUNC, MsgHdr
from usernet.sockets import arguments, transfer
from usernet.sockets.address import format_address, parse_address
from usernet.sockets.arguments import c_int
from usernet.sockets.handle import SocketHandle


class SocketBase(SocketHandle):
    """A handle of a socket with everything `_socket.socket` has."""

    __slots__ = ()

    # -- receiving

    def _receive(self, msg: MsgHdr, flags: Any) -> int:
        socket = self._socket
        if socket is None:
            raise error(errno.EBADF)
        return transfer.recvmsg(socket, self._timeout, msg, c_int(flags))

    def recv(self, bufsize: Any, flags: Any = 0, /) -> bytes:
        """At most `bufsize` bytes; b"" at the end of a stream."""
        socket = self._socket
        if socket is None:
            arguments.size(bufsize, transfer.NEGATIVE_SIZE)
            absent: bytes = self._absent("recv", bufsize, flags)
            return absent
        return transfer.recv(socket, self._timeout, bufsize, flags)

    def recvfrom(self, bufsize: Any, flags: Any = 0, /) -> tuple[bytes, Any]:
        """At most `bufsize` bytes, and the address of who sent them."""
        length = arguments.size(bufsize, "negative buffersize in recvfrom")
        if self._sk is None:
            absent: tuple[bytes, Any] = self._absent("recvfrom", bufsize, flags)
            return absent
        sink = CollectIter(length)
        msg = MsgHdr(sink)
        self._receive(msg, flags)
        return sink.getvalue(), format_address(self._net, msg.name)

    def recv_into(self, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> int:
        """Receive into `buffer`, at most `nbytes`, 0 for as much as it holds. Returns how many came."""
        if self._sk is None:
            absent: int = self._absent("recv_into", buffer, nbytes, flags)
            return absent
        sink = arguments.sink(buffer, nbytes, "recv_into", "buffer too small for requested bytes")
        return self._receive(MsgHdr(sink), flags)

    def recvfrom_into(self, buffer: Any, nbytes: Any = 0, flags: Any = 0) -> tuple[int, Any]:
        """As `recv_into`, with the address of who sent it."""
        if self._sk is None:
            absent: tuple[int, Any] = self._absent("recvfrom_into", buffer, nbytes, flags)
            return absent
        sink = arguments.sink(
            buffer, nbytes, "recvfrom_into", "nbytes is greater than the length of the buffer"
        )
        msg = MsgHdr(sink)
        length = self._receive(msg, flags)
        return length, format_address(self._net, msg.name)

    def recvmsg(
        self, bufsize: Any, ancbufsize: Any = 0, flags: Any = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """recvmsg(2): data, ancillary data (with room for `ancbufsize` bytes of it), flags, and address."""
        length = arguments.size(bufsize, "negative buffer size in recvmsg()")
        if self._sk is None:
            absent: tuple[bytes, list[tuple[int, int, bytes]], int, Any]
            absent = self._absent("recvmsg", bufsize, ancbufsize, flags)
            return absent
        sink = CollectIter(length)
        _, control, flags, address = self._receive_message(MsgHdr(sink), ancbufsize, flags)
        return sink.getvalue(), control, flags, address

    def recvmsg_into(
        self, buffers: Any, ancbufsize: Any = 0, flags: Any = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As `recvmsg`, into a row of buffers; the first item is how many bytes came."""
        if self._sk is None:
            absent: tuple[int, list[tuple[int, int, bytes]], int, Any]
            absent = self._absent("recvmsg_into", buffers, ancbufsize, flags)
            return absent
        return self._receive_message(MsgHdr(arguments.sinks(buffers)), ancbufsize, flags)

    def _receive_message(
        self, msg: MsgHdr, ancbufsize: Any, flags: Any
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        room = arguments.control_room(ancbufsize)
        length = self._receive(msg, flags)
        control, cut = arguments.fit_control(msg.control, room)
        return length, control, msg.flags | MSG_CTRUNC if cut else msg.flags, format_address(self._net, msg.name)

    # -- sending

    def send(self, data: Any, flags: Any = 0, /) -> int:
        """Send; returns how many bytes were taken, which a stream may make fewer than all."""
        socket = self._socket
        if socket is None:
            arguments.source(data)
            absent: int = self._absent("send", data, flags)
            return absent
        return transfer.send(socket, self._timeout, data, flags)

    def sendall(self, data: Any, flags: Any = 0, /) -> None:
        """Send all of `data`; the time-out holds for the whole. After an error nobody knows how much was sent."""
        socket = self._socket
        if socket is None:
            arguments.source(data)
            self._absent("sendall", data, flags)
            return
        transfer.sendall(socket, self._timeout, data, flags)

    def sendto(self, data: Any, *args: Any) -> int:
        """sendto(data, address), or sendto(data, flags, address)."""
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args) + 1} given)")
        source = arguments.source(data)
        flags = c_int(args[0]) if len(args) == 2 else 0
        socket = self._socket
        if socket is None:
            absent: int = self._absent("sendto", data, *args)
            return absent
        address = args[-1]
        name = parse_address(self._net, self._family, address, "sendto")
        sys.audit("socket.sendto", self, address)
        return transfer.sendmsg(socket, self._timeout, MsgHdr(source, name), flags)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: Any = 0, address: Any = None, /) -> int:
        """sendmsg(2): a row of buffers, ancillary data as (level, type, data), flags, and where to."""
        socket = self._socket
        if socket is None:
            absent: int = self._absent("sendmsg", buffers, ancdata, flags, address)
            return absent
        source = arguments.sources(buffers)
        control = arguments.control_items(ancdata)
        flags = c_int(flags)
        name = None if address is None else parse_address(self._net, self._family, address, "sendmsg")
        sys.audit("socket.sendmsg", self, address)
        return transfer.sendmsg(socket, self._timeout, MsgHdr(source, name, control), flags)
