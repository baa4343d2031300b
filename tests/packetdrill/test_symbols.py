from __future__ import annotations

import errno
import fcntl
import os
import select
import socket

import pytest

from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.symbols import (
    EPOLL_FLAGS,
    POLL_FLAGS,
    SYMBOLS,
    errno_text,
    flags_text,
    message_flags_text,
    symbol,
)


@pytest.mark.parametrize("module", [socket, select, fcntl, os, errno])
def test_values_are_the_hosts_where_it_has_them(module: object):
    names = [name for name in SYMBOLS if isinstance(getattr(module, name, None), int)]
    assert names
    for name in names:
        assert int(getattr(module, name)) & 0xFFFFFFFF == SYMBOLS[name] & 0xFFFFFFFF, name


def test_symbols():
    assert (symbol("NULL"), symbol("SOL_TCP"), symbol("TCP_FASTOPEN_KEY"), symbol("EOPNOTSUPP")) == (0, 6, 33, 95)
    with pytest.raises(BadEvent, match="'SO_WHAT'"):
        symbol("SO_WHAT")


def test_names_for_messages():
    assert errno_text(errno.EPIPE) == "EPIPE (Broken pipe)"
    assert errno_text(errno.EAGAIN).startswith("EAGAIN ")
    assert errno_text(0) == "no error"
    assert flags_text(0, POLL_FLAGS) == "0"
    assert flags_text(5, POLL_FLAGS) == "POLLIN|POLLOUT"
    assert flags_text(0x80000001, EPOLL_FLAGS) == "EPOLLIN|EPOLLET"
    assert flags_text(0x4001, {"A": 1}) == "A|0x4000"
    assert message_flags_text(0x2020) == "MSG_TRUNC|MSG_ERRQUEUE"
