"""Which class `ssl` makes of a socket."""

from __future__ import annotations

import socket
import ssl

import usernet.socket
from usernet.posix import using
from usernet.posix.tls import ChoosingSSLSocket, StackSSLSocket, serve_ssl
from usernet.stack import Stack


def test_sockets_of_the_host_are_wrapped_as_ever_and_a_stacks_by_its_own(stack: Stack) -> None:
    serve_ssl()
    serve_ssl()
    context = ssl.create_default_context()
    assert context.sslsocket_class is ChoosingSSLSocket
    with socket.socket() as plain, context.wrap_socket(plain, server_hostname="host") as wrapped:
        assert type(wrapped) is ssl.SSLSocket
    with using(stack, descriptors=True):
        mine = usernet.socket.socket()
    with context.wrap_socket(mine, server_hostname="host") as made:
        assert type(made) is StackSSLSocket
        assert isinstance(made, ssl.SSLSocket)


def test_a_class_that_a_program_chose_is_left_alone(stack: Stack) -> None:
    class Mine(ssl.SSLSocket):
        pass

    before = ssl.SSLContext.sslsocket_class
    ssl.SSLContext.sslsocket_class = Mine
    try:
        serve_ssl()
        assert ssl.SSLContext.sslsocket_class is Mine
    finally:
        ssl.SSLContext.sslsocket_class = before
