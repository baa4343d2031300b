"""The socket options of TCP-AO: Linux's structures and errors (tools/testing/selftests/net/tcp_ao has the like)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import unpack_from
from typing import Any

import pytest

from tests.transport.tcp.harness import Pair, code, sock_of
from tests.transport.tcp.keys import (
    TCP_AO_ADD_KEY,
    TCP_AO_DEL_KEY,
    TCP_AO_GET_KEYS,
    TCP_AO_INFO,
    TCP_AO_REPAIR,
    ao_add,
    ao_del,
    ao_get,
    ao_info,
    set_md5,
)
from tests.transport.tcp.test_md5 import transfer
from usernet.sockets.user import UserSocket
from usernet.stack import Stack

PEER = "10.0.0.2"


@pytest.fixture
def sock() -> Iterator[UserSocket]:
    stack = Stack("keys", seed=1)
    sock = stack.socket(2, 1)
    yield sock
    sock.close()
    stack.close()


def add(sock: UserSocket, address: str = PEER, **more: Any) -> int:
    return code(sock.setsockopt, 6, TCP_AO_ADD_KEY, ao_add(address, **more))


def delete(sock: UserSocket, address: str = PEER, **more: Any) -> int:
    return code(sock.setsockopt, 6, TCP_AO_DEL_KEY, ao_del(address, **more))


def told(sock: UserSocket) -> bytes:
    """TCP_AO_INFO"""
    info = sock.getsockopt(6, TCP_AO_INFO, 48)
    assert isinstance(info, bytes)
    return info


def ids(sock: UserSocket) -> list[tuple[int, int]]:
    auth = sock_of(sock).auth
    assert auth is not None and auth.ao is not None
    return [(key.sndid, key.rcvid) for key in auth.ao.keys]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 0),
        ({"keylen": 81}, errno.EINVAL),
        ({"key": b"k" * 80}, 0),
        ({"flags": 4}, errno.EINVAL),
        ({"reserved2": 1}, errno.EINVAL),
        ({"family": 10}, errno.EINVAL),
        ({"address": "fd00::1"}, errno.EINVAL),
        ({"port": 80}, errno.EINVAL),
        ({"prefix": 33}, errno.EINVAL),
        ({"prefix": 24}, errno.EINVAL),
        ({"address": "10.0.0.0", "prefix": 24}, 0),
        ({"prefix": 0}, errno.EINVAL),
        ({"address": "0.0.0.0", "prefix": 0}, 0),
        ({"address": "0.0.0.0", "prefix": 32}, errno.EINVAL),
        ({"keyflags": 4}, errno.EINVAL),
        ({"keyflags": 2}, 0),
        ({"keyflags": 1}, 0),
        ({"keyflags": 1, "ifindex": 42}, errno.EINVAL),
        ({"ifindex": 42}, errno.EINVAL),
        ({"alg": "imaginary hash"}, errno.ENOENT),
        ({"alg": "sha1"}, errno.ENOSYS),
        ({"alg": "cmac(aes)", "key": b"short"}, errno.EINVAL),
        ({"maclen": 16}, 0),
        ({"maclen": 17}, errno.EMSGSIZE),
        ({"maclen": 255}, errno.EMSGSIZE),
        ({"alg": "hmac(md5)", "maclen": 16}, 0),
        ({"flags": 3}, 0),
    ],
)
def test_a_key_is_checked(sock: UserSocket, more: dict[str, Any], expected: int):
    assert code(sock.setsockopt, 6, TCP_AO_ADD_KEY, ao_add(**({"address": PEER} | more))) == expected
    auth = sock_of(sock).auth
    assert (auth is not None) == (expected == 0)


def test_structures_of_other_lengths(sock: UserSocket):
    for option, value in (
        (TCP_AO_ADD_KEY, ao_add(PEER)), (TCP_AO_DEL_KEY, ao_del(PEER)), (TCP_AO_INFO, ao_info()),
    ):  # fmt: skip
        assert code(sock.setsockopt, 6, option, value[:-1]) == errno.EINVAL
        assert code(sock.setsockopt, 6, option, b"") == errno.EINVAL
        # Of a newer kernel: fine, as long as what is unknown isn't used.
        assert code(sock.setsockopt, 6, option, value + b"\0\1") == errno.E2BIG
        assert code(sock.setsockopt, 6, option, value + b"\0\0") == 0


def test_ids_must_not_overlap_where_peers_do(sock: UserSocket):
    assert add(sock, sndid=1, rcvid=2) == 0
    assert add(sock, sndid=1, rcvid=3) == errno.EEXIST
    assert add(sock, sndid=3, rcvid=2) == errno.EEXIST
    assert add(sock, "10.0.0.0", prefix=24, sndid=1, rcvid=9) == errno.EEXIST
    assert add(sock, "0.0.0.0", prefix=0, sndid=9, rcvid=2) == errno.EEXIST
    assert add(sock, "10.0.0.3", sndid=1, rcvid=2) == 0
    assert add(sock, sndid=2, rcvid=1) == 0
    assert ids(sock) == [(2, 1), (1, 2), (1, 2)]


def test_keys_are_bounded_by_optmem_max(sock: UserSocket):
    count = 0
    while not (failed := add(sock, f"10.1.{count >> 8}.{count & 255}")):
        count += 1
    assert failed == errno.ENOMEM
    assert count == (131072 - 1) // (168 + 2 * 20)


def test_a_key_is_deleted_by_all_that_names_it(sock: UserSocket):
    assert delete(sock) == errno.ENOENT
    assert add(sock, sndid=1, rcvid=2) == 0
    different: tuple[dict[str, Any], ...] = (
        {"sndid": 2}, {"rcvid": 1}, {"address": "10.0.0.3"}, {"prefix": 31}, {"keyflags": 1},
        {"keyflags": 1, "ifindex": 7}, {"flags": 1, "current": 9}, {"flags": 2, "rnext": 9},
        {"flags": 1, "current": 1},
    )  # fmt: skip
    for more in different:
        assert delete(sock, **({"sndid": 1, "rcvid": 2} | more)) == errno.ENOENT, more
    wrong: tuple[dict[str, Any], ...] = (
        {"port": 1}, {"flags": 8}, {"reserved2": 1}, {"keyflags": 2}, {"ifindex": 7}, {"flags": 4},
    )  # fmt: skip
    for more in wrong:
        assert delete(sock, **({"sndid": 1, "rcvid": 2} | more)) == errno.EINVAL, more
    assert delete(sock, sndid=1, rcvid=2) == 0
    assert ids(sock) == []
    assert sock_of(sock).omem_alloc == 0


def test_current_and_rnext(sock: UserSocket):
    assert add(sock, sndid=1, rcvid=2, flags=3) == 0
    assert add(sock, sndid=3, rcvid=4) == 0
    assert delete(sock, sndid=1, rcvid=2) == errno.EBUSY
    assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info(1, current=9)) == errno.ENOENT
    assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info(2, rnext=9)) == errno.ENOENT
    sock.setsockopt(6, TCP_AO_INFO, ao_info(1, current=3))
    assert delete(sock, sndid=1, rcvid=2) == errno.EBUSY
    assert delete(sock, sndid=1, rcvid=2, flags=2, rnext=4) == 0
    info = told(sock)
    assert unpack_from("=IHBB", info) == (3, 0, 3, 4)


def test_a_listener_has_no_current_key_and_deletes_asynchronously(sock: UserSocket):
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    for flags in (1, 2, 3):
        assert add(sock, flags=flags) == errno.EINVAL
        assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info(flags)) == errno.EINVAL
    assert add(sock) == 0
    assert delete(sock, flags=1) == errno.EINVAL
    assert delete(sock, flags=4) == 0
    assert add(sock) == 0


def test_info(sock: UserSocket):
    assert code(sock.getsockopt, 6, TCP_AO_INFO, 48) == errno.ENOENT
    for wrong in (32, 1 << 31):
        assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info(wrong)) == errno.EINVAL
    assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info(reserved2=1)) == errno.EINVAL
    sock.setsockopt(6, TCP_AO_INFO, ao_info(4 | 8 | 16, counters=(1, 2, 3, 4, 5)))
    info = told(sock)
    assert unpack_from("=IHBB5Q", info) == (4 | 16, 0, 0, 0, 1, 2, 3, 4, 5)
    # What isn't asked for stays; the rest is set.
    sock.setsockopt(6, TCP_AO_INFO, ao_info(counters=(9,) * 5))
    assert unpack_from("=IHBB5Q", told(sock)) == (0, 0, 0, 0, 1, 2, 3, 4, 5)
    assert sock.getsockopt(6, TCP_AO_INFO, 10) == told(sock)[:10]
    assert code(sock.getsockopt, 6, TCP_AO_INFO, ao_info(32)) == errno.EINVAL
    assert code(sock.getsockopt, 6, TCP_AO_INFO, ao_info() + b"\1") == errno.E2BIG
    assert code(set_md5, sock, PEER, b"key") == 0
    assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info(4)) == errno.EKEYREJECTED


def keys(sock: UserSocket, *args: Any, **more: Any) -> list[tuple[int, ...]]:
    """(sndid, rcvid, is_current and is_rnext) of the keys asked for."""
    value = sock.getsockopt(6, TCP_AO_GET_KEYS, ao_get(*args, **more))
    assert isinstance(value, bytes)
    count = int.from_bytes(value[272:276], "little")
    found = [unpack_from("=HBB", value, at + 276) for at in range(0, len(value), 304)][:count]
    return [(sndid, rcvid, flags) for flags, sndid, rcvid in found]


def test_keys_are_listed(sock: UserSocket):
    assert code(sock.getsockopt, 6, TCP_AO_GET_KEYS, ao_get(flags=4)) == errno.ENOENT
    add(sock, sndid=1, rcvid=2, key=b"one", maclen=10, flags=1)
    add(sock, "10.0.0.0", prefix=24, sndid=3, rcvid=4, alg="cmac(aes128)", key=b"two", flags=2, keyflags=2)
    add(sock, "10.9.0.0", prefix=16, sndid=1, rcvid=2)
    assert keys(sock, flags=4) == [(1, 2, 0), (3, 4, 2), (1, 2, 1)]
    assert keys(sock, flags=1) == [(1, 2, 1)]
    assert keys(sock, flags=2) == [(3, 4, 2)]
    assert keys(sock, flags=3) == [(3, 4, 2), (1, 2, 1)]
    assert keys(sock, PEER, prefix=32, sndid=1, rcvid=2) == [(1, 2, 1)]
    assert keys(sock, "10.9.0.0", prefix=16, sndid=1, rcvid=2) == [(1, 2, 0)]
    assert keys(sock, "0.0.0.0", sndid=3, rcvid=4) == [(3, 4, 2)]
    value = sock.getsockopt(6, TCP_AO_GET_KEYS, ao_get(flags=2))
    assert isinstance(value, bytes)
    assert value[:8] == b"\2\0\0\0\x0a\0\0\0"
    assert value[128:192].rstrip(b"\0") == b"cmac(aes)"
    # As it is used: of 16 bytes, whatever was set.
    assert len(value[192:272].rstrip(b"\0")) == 16
    assert unpack_from("=IH6Bi2Q", value, 272) == (1, 2, 3, 4, 24, 12, 2, 16, 0, 0, 0)
    # How many there are is told even where there is no room for them.
    short = sock.getsockopt(6, TCP_AO_GET_KEYS, ao_get(flags=4, nkeys=2))
    assert isinstance(short, bytes) and len(short) == 2 * 304 and short[272] == 3
    none = sock.getsockopt(6, TCP_AO_GET_KEYS, ao_get(flags=4, nkeys=0))
    assert isinstance(none, bytes) and len(none) == 304 and none[272] == 3


@pytest.mark.parametrize(
    ("args", "more", "expected"),
    [
        ((), {}, errno.EAFNOSUPPORT),
        ((), {"flags": 8}, errno.EINVAL),
        ((), {"flags": 4, "counters": (1, 0)}, errno.EINVAL),
        ((), {"flags": 4, "keyflags": 2}, errno.EINVAL),
        ((), {"flags": 4, "ifindex": 1}, errno.EINVAL),
        ((), {"flags": 5}, errno.EINVAL),
        ((), {"flags": 6}, errno.EINVAL),
        ((), {"flags": 4, "sndid": 1}, errno.EINVAL),
        ((), {"flags": 4, "prefix": 1}, errno.EINVAL),
        ((PEER,), {"flags": 4, "prefix": 32}, errno.EINVAL),
        ((PEER,), {"prefix": 33}, errno.EINVAL),
        ((PEER,), {"prefix": 24}, errno.EINVAL),
        ((PEER,), {"prefix": 0}, errno.EINVAL),
        (("0.0.0.0",), {"prefix": 8}, errno.EINVAL),
        ((PEER,), {"prefix": 32, "sndid": 100, "rcvid": 100}, 0),
    ],
)
def test_what_is_asked_for_is_checked(sock: UserSocket, args: tuple[str, ...], more: dict[str, Any], expected: int):
    add(sock)
    assert code(sock.getsockopt, 6, TCP_AO_GET_KEYS, ao_get(*args, **more)) == expected


def test_repair_needs_repair_mode(sock: UserSocket):
    add(sock)
    assert code(sock.setsockopt, 6, TCP_AO_REPAIR, bytes(16)) == errno.EPERM
    assert code(sock.getsockopt, 6, TCP_AO_REPAIR, 16) == errno.EPERM


def test_an_established_connection_keeps_to_how_it_began():
    with Pair() as pair:
        server = pair.listener()
        client = pair.dial()
        pair.run(0.5)
        accepted = pair.accept(server)
        for sock in (client, accepted):
            assert add(sock) == errno.EISCONN
            assert delete(sock) == errno.EISCONN
            assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info()) == errno.EISCONN
        assert transfer(pair, client, accepted, b"x") == b"x"
        signed = pair.listener(81)
        add(signed, "10.0.0.1")
        other = pair.socket(pair.left)
        add(other)
        other.connect_ex((PEER, 81))
        pair.run(0.5)
        pair.accept(signed)
        # Only keys for its peer, and never none.
        assert add(other, "10.0.0.3", sndid=5, rcvid=5) == errno.EINVAL
        assert add(other, "10.0.0.0", prefix=24, sndid=5, rcvid=5) == 0
        assert delete(other) == errno.EBUSY
        assert code(set_md5, other, PEER, b"key") == errno.EKEYREJECTED
