"""TCP MD5 signatures: keys by peer, and the digest of a segment (RFC 2385; Linux: tcp_md5_do_add, tcp_v4_md5_hash_skb).

Sixteen bytes in an option of every segment: MD5 over the pseudo header, the TCP header without options and with a
checksum of zero, the data, and the key, which both sides were given. A listener has keys for peers or networks of
peers; the most specific counts, and the connection's socket inherits it, as one for its peer alone.

The option takes 20 bytes with its padding. A SYN is left without time stamps, and what the peer's SYN offers of time
stamps is declined where it offers SACK too, for both don't fit; then two SACK blocks do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.transport.tcp.ao import ao_required
from usernet.transport.tcp.auth_keys import (
    AF_INET,
    AF_INET6,
    Auth,
    charge,
    decode_sockaddr,
    pseudo_header,
    same_network,
    unmapped,
)
from usernet.wire.tcp import TCP_HLEN, TCPOLEN_MD5SIG_ALIGNED

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

TCP_MD5SIG: Final = 14
TCP_MD5SIG_EXT: Final = 32
TCP_MD5SIG_MAXKEYLEN: Final = 80
TCP_MD5SIG_FLAG_PREFIX: Final = 1
TCP_MD5SIG_FLAG_IFINDEX: Final = 2

MD5_KEY_SIZE: Final = 136
"""Bytes of option memory a key takes: the size of Linux's `struct tcp_md5sig_key`."""

_OPTION: Final = b"\x01\x01\x13\x12" + bytes(16)
_MD5SIG: Final = Struct("=128sBBHi80s")  # struct tcp_md5sig


@final
class Md5Key:
    """A key for the peers of a network (Linux: `struct tcp_md5sig_key`). flags: TCP_MD5SIG_FLAG_IFINDEX or 0."""

    __slots__ = ("address", "flags", "key", "l3index", "prefix")

    size: Final = TCPOLEN_MD5SIG_ALIGNED  # of the option, padded
    option: Final = _OPTION  # the digest still to come, at byte 4

    def __init__(self, address: bytes, prefix: int, l3index: int, flags: int, key: bytes) -> None:
        self.address = address
        self.prefix = prefix
        self.l3index = l3index
        self.flags = flags
        self.key = key


def md5_lookup(auth: Auth, peer: bytes, any_l3index: bool = False) -> Md5Key | None:
    """The key for a peer, the most specific where there are several (Linux: tcp_md5_do_lookup). A stack has no devices
    that make L3 domains (VRF), so that what is received is always of the default one, 0."""
    best: Md5Key | None = None
    for key in auth.md5:
        if not any_l3index and key.flags & TCP_MD5SIG_FLAG_IFINDEX and key.l3index:
            continue
        if same_network(key.address, peer, key.prefix) and (best is None or best.prefix < key.prefix):
            best = key
    return best


def md5_digest(
    key: bytes, saddr: bytes, daddr: bytes, header: bytes, payload: Iterable[bytes | memoryview], length: int
) -> bytes:
    """The digest of a segment (Linux: tcp_v4_md5_hash_skb). header: the TCP header, options or not; length: of the
    whole segment, options and payload counted."""
    from hashlib import md5

    digest = md5(pseudo_header(saddr, daddr, length), usedforsecurity=False)
    digest.update(header[:16] + b"\0\0" + header[18:TCP_HLEN])
    for part in payload:
        digest.update(part)
    digest.update(key)
    return digest.digest()


def set_md5(sk: TcpSock, option: int, value: bytes) -> None:
    """TCP_MD5SIG, TCP_MD5SIG_EXT: `value` is a `struct tcp_md5sig`; an empty key deletes (tcp_v4_parse_md5_keys).

    Raises OSError: EINVAL, ENOENT (nothing to delete), EKEYREJECTED (the peer has keys of TCP-AO), ENOMEM.
    """
    if len(value) < _MD5SIG.size:
        raise error(errno.EINVAL, f"TCP_MD5SIG: expected {_MD5SIG.size} bytes, not {len(value)}")
    sockaddr, flags, prefix, keylen, ifindex, key = _MD5SIG.unpack_from(value)
    family, _, address = decode_sockaddr(sockaddr)
    if family != sk.family or family not in (AF_INET, AF_INET6):
        raise error(errno.EINVAL, f"TCP_MD5SIG: an address of family {family} for a socket of family {sk.family}")
    address = unmapped(address)
    bits = len(address) * 8
    extended = option == TCP_MD5SIG_EXT
    if not extended or not flags & TCP_MD5SIG_FLAG_PREFIX:
        prefix = bits
    elif prefix > bits:
        raise error(errno.EINVAL, f"TCP_MD5SIG_EXT: expected a prefix of 0 to {bits} bits, not {prefix}")
    if extended and ifindex and flags & TCP_MD5SIG_FLAG_IFINDEX:
        raise error(errno.EINVAL, f"TCP_MD5SIG_EXT: {ifindex} is not a device of an L3 domain")
    flags &= TCP_MD5SIG_FLAG_IFINDEX
    auth = sk.auth
    known = _find(auth, address, prefix, flags) if auth is not None else None
    if not keylen:
        if auth is None or known is None:
            raise error(errno.ENOENT, "TCP_MD5SIG: there is no key for that address")
        auth.md5.remove(known)
        sk.omem_alloc -= MD5_KEY_SIZE
        return
    if keylen > TCP_MD5SIG_MAXKEYLEN:
        raise error(errno.EINVAL, f"TCP_MD5SIG: expected a key of at most {TCP_MD5SIG_MAXKEYLEN} bytes, not {keylen}")
    key = key[:keylen]
    if auth is not None and ao_required(sk, auth, address, 0 if flags else -1, False):
        raise error(errno.EKEYREJECTED, "TCP_MD5SIG: the peer has keys of TCP-AO")
    if known is not None:
        known.key = key
        return
    charge(sk, MD5_KEY_SIZE)
    if auth is None:
        auth = sk.auth = Auth()
    auth.md5.insert(0, Md5Key(address, prefix, 0, flags, key))


def _find(auth: Auth, address: bytes, prefix: int, flags: int) -> Md5Key | None:
    """Linux: tcp_md5_do_lookup_exact."""
    for key in auth.md5:
        if key.flags == flags and key.address == address and key.prefix == prefix:
            return key
    return None


def copy_key(auth: Auth, key: Md5Key, peer: bytes) -> None:
    """A key of a listener becomes the one of a connection, or of what is left of it (Linux: tcp_md5_key_copy)."""
    auth.md5.append(Md5Key(peer, len(peer) * 8, key.l3index, key.flags, key.key))
