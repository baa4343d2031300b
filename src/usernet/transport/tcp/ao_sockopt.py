"""The socket options of TCP-AO, with Linux's structures and errors (tcp_ao.rst; Linux: tcp_parse_ao, tcp_ao_get_mkts).

A structure may be longer than ours, of a program built for a newer kernel: what we don't know of it must be zeros, else
E2BIG. One that is set must not be shorter; one that is read into may be.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from usernet.core.errors import error
from usernet.transport.tcp.ao import (
    AO_HLEN,
    TCP_AO_KEYF_EXCLUDE_OPT,
    TCP_AO_KEYF_IFINDEX,
    AoInfo,
    AoKey,
)
from usernet.transport.tcp.ao_crypto import find
from usernet.transport.tcp.auth_keys import (
    AF_INET,
    AF_INET6,
    Auth,
    charge,
    decode_sockaddr,
    encode_sockaddr,
    network,
    same_network,
    unmapped,
)
from usernet.transport.tcp.const import TCP_CLOSE, TCP_LISTEN
from usernet.transport.tcp.md5 import md5_lookup
from usernet.wire.tcp import (
    MAX_TCP_OPTION_SPACE,
    TCPOLEN_MSS_ALIGNED,
    TCPOLEN_TSTAMP_ALIGNED,
    TCPOLEN_WSCALE_ALIGNED,
)

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

TCP_AO_ADD_KEY: Final = 38
TCP_AO_DEL_KEY: Final = 39
TCP_AO_INFO: Final = 40
TCP_AO_GET_KEYS: Final = 41
TCP_AO_REPAIR: Final = 42
TCP_AO_MAXKEYLEN: Final = 80

# addr, alg_name, ifindex, set_current 1 set_rnext 2 (the rest reserved), reserved2, prefix, sndid, rcvid, maclen,
# keyflags, keylen, key
ADD: Final = Struct("=128s64siIHBBBBBB80s")
# addr, ifindex, set_current 1 set_rnext 2 del_async 4, reserved2, prefix, sndid, rcvid, current_key, rnext, keyflags
DEL: Final = Struct("=128siIHBBBBBB")
# set_current 1 set_rnext 2 ao_required 4 set_counters 8 accept_icmps 16, reserved2, current_key, rnext, counters
INFO: Final = Struct("=IHBB5Q")
# addr, alg_name, key, nkeys, is_current 1 is_rnext 2 get_all 4, sndid, rcvid, prefix, maclen, keyflags, keylen,
# ifindex, pkt_good, pkt_bad
GET: Final = Struct("=128s64s80sIH6Bi2Q")
# snt_isn and rcv_isn in network order, snd_sne, rcv_sne
REPAIR: Final = Struct("=4s4sII")
_NKEYS_AT: Final = 128 + 64 + 80

SET_CURRENT: Final = 1
SET_RNEXT: Final = 2


def _struct(layout: Struct, value: bytes, reading: bool = False) -> tuple[Any, ...]:
    """Unpack a structure of any later version (Linux: copy_struct_from_user)."""
    size = layout.size
    if len(value) < size:
        if not reading or not value:
            raise error(errno.EINVAL, f"expected a structure of {size} bytes, not {len(value)}")
        value = value.ljust(size, b"\0")
    if any(value[size:]):
        raise error(errno.E2BIG, f"unknown fields behind the {size} bytes of the structure")
    return layout.unpack_from(value)


def _check(wrong: bool, what: str) -> None:
    if wrong:
        raise error(errno.EINVAL, what)


def set_ao(sk: TcpSock, option: int, value: bytes) -> None:
    """TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO (Linux: tcp_parse_ao).

    Raises OSError: EISCONN on a connection that began without TCP-AO; EINVAL, E2BIG, EEXIST, ENOENT, EKEYREJECTED,
    EBUSY, EMSGSIZE, ENOMEM as tcp_ao.rst and the functions of Linux have it.
    """
    info = sk.auth.ao if sk.auth is not None else None
    if sk.state not in (TCP_LISTEN, TCP_CLOSE) and info is None and not sk.repair:
        raise error(errno.EISCONN, "TCP-AO can't begin on a connection")
    if option == TCP_AO_ADD_KEY:
        _add_key(sk, info, value)
    elif option == TCP_AO_DEL_KEY:
        _del_key(sk, info, value)
    else:
        _set_info(sk, info, value)


def _adopt(sk: TcpSock, info: AoInfo) -> None:
    """The socket has TCP-AO from now on."""
    if sk.auth is None:
        sk.auth = Auth()
    sk.auth.ao = info


def _peer(sk: TcpSock, sockaddr: bytes, prefix: int) -> bytes:
    """The address of a new key, checked (Linux: tcp_ao_verify_ipv4, tcp_ao_verify_ipv6)."""
    family, port, address = decode_sockaddr(sockaddr)
    _check(family != sk.family or family not in (AF_INET, AF_INET6), f"a key's address of family {family}")
    _check(port != 0, "a key is for all ports of a peer")
    if not prefix:
        _check(any(address), "a prefix of 0 bits is for the address of all zeros only")
        return address
    address = unmapped(address)
    bits = len(address) * 8
    _check(not any(address) or prefix > bits, f"a prefix of {prefix} bits")
    _check(
        network(address, prefix) << bits - prefix != int.from_bytes(address, "big"), "an address longer than its prefix"
    )
    if any(sk.daddr):
        _check(not same_network(unmapped(sk.daddr), address, prefix), "a key that is not for the peer")
    return address


def _add_key(sk: TcpSock, info: AoInfo | None, value: bytes) -> None:
    """Linux: tcp_ao_add_cmd."""
    sockaddr, alg_name, ifindex, flags, reserved2, prefix, sndid, rcvid, maclen, key_flags, keylen, key = _struct(
        ADD, value
    )
    _check(keylen > TCP_AO_MAXKEYLEN, f"a key of {keylen} bytes")
    _check(bool(flags >> 2 or reserved2), "reserved fields that are not zero")
    peer = _peer(sk, sockaddr, prefix)
    _check(bool(key_flags & ~(TCP_AO_KEYF_IFINDEX | TCP_AO_KEYF_EXCLUDE_OPT)), f"key flags {key_flags:#x}")
    _check(bool(flags) and sk.state == TCP_LISTEN, "a listener has no current key")
    # No device makes an L3 domain (VRF), so only the default one can be asked for.
    _check(bool(ifindex), f"{ifindex} is not a device of an L3 domain")
    auth = sk.auth
    if auth is not None and md5_lookup(auth, peer, any_l3index=not key_flags & TCP_AO_KEYF_IFINDEX) is not None:
        raise error(errno.EKEYREJECTED, "the peer has a key of TCP MD5")
    first = info is None
    if info is None:
        info = AoInfo()
    elif info.lookup(0, peer, -1, rcvid, prefix) or info.lookup(0, peer, sndid, -1, prefix):
        # RFC 5925 section 3.1: ids must not overlap where connections do.
        raise error(errno.EEXIST, "the peer has a key with one of the ids")
    algorithm = find(alg_name[:63].split(b"\0")[0].decode("ascii", "replace"))
    maclen = maclen or 12
    room = MAX_TCP_OPTION_SPACE - TCPOLEN_MSS_ALIGNED - TCPOLEN_TSTAMP_ALIGNED - TCPOLEN_WSCALE_ALIGNED
    if AO_HLEN + maclen + 3 & ~3 > room:
        raise error(errno.EMSGSIZE, f"a code of {maclen} bytes leaves no room for a SYN's options")
    mkt = AoKey(peer, prefix, sndid, rcvid, algorithm, algorithm.master_key(key[:keylen]), maclen, key_flags)
    _check(maclen > algorithm.digest_size, f"{algorithm.name} has {algorithm.digest_size} bytes, not {maclen}")
    if auth is None:
        auth = Auth()
    charge(sk, mkt.omem)
    if sk.state not in (TCP_LISTEN, TCP_CLOSE):
        info.cache_traffic_keys(sk, mkt)
        if first:
            info.current_key = info.rnext_key = mkt
    info.keys.insert(0, mkt)
    if first:
        auth.ao = info
        sk.auth = auth
    if flags & SET_CURRENT:
        info.current_key = mkt
    if flags & SET_RNEXT:
        info.rnext_key = mkt


def _chosen(info: AoInfo, flags: int, current: int, rnext: int) -> tuple[AoKey | None, AoKey | None]:
    """The keys that are to be current and rnext. Raises OSError ENOENT."""
    new_current = info.key_of(current, -1) if flags & SET_CURRENT else None
    if flags & SET_CURRENT and new_current is None:
        raise error(errno.ENOENT, f"no key is sent as {current}")
    new_rnext = info.key_of(-1, rnext) if flags & SET_RNEXT else None
    if flags & SET_RNEXT and new_rnext is None:
        raise error(errno.ENOENT, f"no key is received as {rnext}")
    return new_current, new_rnext


def _del_key(sk: TcpSock, info: AoInfo | None, value: bytes) -> None:
    """Linux: tcp_ao_del_cmd, tcp_ao_delete_key."""
    sockaddr, ifindex, flags, reserved2, prefix, sndid, rcvid, current, rnext, key_flags = _struct(DEL, value)
    _check(bool(flags >> 3 or reserved2), "reserved fields that are not zero")
    _check(bool(flags & (SET_CURRENT | SET_RNEXT)) and sk.state == TCP_LISTEN, "a listener has no current key")
    _check(bool(key_flags & ~TCP_AO_KEYF_IFINDEX), f"key flags {key_flags:#x}")
    _check(bool(ifindex) and not key_flags & TCP_AO_KEYF_IFINDEX, "a device without TCP_AO_KEYF_IFINDEX")
    if info is None or sk.auth is None:
        raise error(errno.ENOENT, "the socket has no keys")
    new_current, new_rnext = _chosen(info, flags, current, rnext)
    del_async = flags & 4
    _check(bool(del_async) and sk.state != TCP_LISTEN, "keys are deleted asynchronously of a listener only")
    # The family is the socket's, whatever the structure says.
    _, port, address = decode_sockaddr(sk.family.to_bytes(2, "little") + sockaddr[2:])
    address = unmapped(address)
    _check(port != 0, "a key is for all ports of a peer")
    for key in info.keys:
        if (
            (key.sndid, key.rcvid, key.prefix, key.address) == (sndid, rcvid, prefix, address)
            and key.key_flags & TCP_AO_KEYF_IFINDEX == key_flags & TCP_AO_KEYF_IFINDEX
            and key.l3index == ifindex
            and key is not new_current
            and key is not new_rnext
        ):
            break
    else:
        raise error(errno.ENOENT, "no such key")
    if not del_async:
        info.current_key = new_current or info.current_key
        info.rnext_key = new_rnext or info.rnext_key
        if info.current_key is key or info.rnext_key is key:
            raise error(errno.EBUSY, "the key is in use")
    elif info.current_key is key or info.rnext_key is key:
        info.current_key = None if info.current_key is key else info.current_key
        info.rnext_key = None if info.rnext_key is key else info.rnext_key
    info.keys.remove(key)
    sk.omem_alloc -= key.omem


def _set_info(sk: TcpSock, info: AoInfo | None, value: bytes) -> None:
    """Linux: tcp_ao_info_cmd."""
    flags, reserved2, current, rnext, good, bad, not_found, required, icmps = _struct(INFO, value)
    _check(bool(flags & (SET_CURRENT | SET_RNEXT)) and sk.state == TCP_LISTEN, "a listener has no current key")
    _check(bool(flags >> 5 or reserved2), "reserved fields that are not zero")
    first = info is None
    if info is None:
        _check(sk.state not in (TCP_LISTEN, TCP_CLOSE), "the connection has no keys")
        info = AoInfo()
    if flags & 4 and sk.auth is not None and sk.auth.md5:
        raise error(errno.EKEYREJECTED, "the socket has keys of TCP MD5")
    new_current, new_rnext = _chosen(info, flags, current, rnext)
    if flags & 8:
        info.pkt_good, info.pkt_bad, info.key_not_found = good, bad, not_found
        info.pkt_required, info.dropped_icmp = required, icmps
    info.ao_required = bool(flags & 4)
    info.accept_icmps = bool(flags & 16)
    info.current_key = new_current or info.current_key
    info.rnext_key = new_rnext or info.rnext_key
    if first:
        _adopt(sk, info)


def get_info(sk: TcpSock, value: bytes) -> bytes:
    """TCP_AO_INFO: the socket's settings and counters, as much as there is room for (Linux: tcp_ao_get_sock_info)."""
    asked = _struct(INFO, value, reading=True)
    _check(bool(asked[0] >> 5 or asked[1]), "reserved fields that are not zero")
    info = _info_of(sk)
    flags = info.ao_required << 2 | info.accept_icmps << 4
    current = rnext = 0
    if info.current_key is not None:
        flags |= SET_CURRENT
        current = info.current_key.sndid
    if info.rnext_key is not None:
        flags |= SET_RNEXT
        rnext = info.rnext_key.rcvid
    packed = INFO.pack(
        flags, 0, current, rnext, info.pkt_good, info.pkt_bad, info.key_not_found, info.pkt_required, info.dropped_icmp
    )
    return packed[: len(value)]


def _info_of(sk: TcpSock) -> AoInfo:
    info = sk.auth.ao if sk.auth is not None else None
    if info is None:
        raise error(errno.ENOENT, "the socket has no TCP-AO")
    return info


def get_keys(sk: TcpSock, value: bytes) -> bytes:
    """TCP_AO_GET_KEYS: the keys that `value`, a structure, asks for, at most as many as it says, one structure each;
    the first says how many there are (Linux: tcp_ao_copy_mkts_to_user)."""
    sockaddr, _, _, nkeys, flags, sndid, rcvid, prefix, _, key_flags, _, ifindex, good, bad = _struct(
        GET, value, reading=True
    )
    info = _info_of(sk)
    _check(bool(good or bad), "counters that are not zero")
    _check(bool(key_flags & ~TCP_AO_KEYF_IFINDEX), f"key flags {key_flags:#x}")
    _check(bool(ifindex) and not key_flags & TCP_AO_KEYF_IFINDEX, "a device without TCP_AO_KEYF_IFINDEX")
    _check(bool(flags >> 3), "reserved fields that are not zero")
    _check(bool(flags & 4 and flags & 3), "all keys, or the current ones")
    family, port, address = decode_sockaddr(sockaddr)
    if family in (AF_INET, AF_INET6):
        address = unmapped(address) if prefix else address
        bits = len(address) * 8
        _check(prefix > bits or any(address) != bool(prefix), f"a prefix of {prefix} bits")
        _check(network(address, prefix) << bits - prefix != int.from_bytes(address, "big"), "an address too long")
    elif family or not flags & 7:
        raise error(errno.EAFNOSUPPORT, f"keys of address family {family}")
    if flags & 7:
        _check(bool(address or port or prefix or sndid or rcvid), "an address beside what says which keys")
    l3index = ifindex if key_flags & TCP_AO_KEYF_IFINDEX else -1
    found = [
        key
        for key in info.keys
        if flags & 4
        or (flags & 1 and key is info.current_key)
        or (flags & 2 and key is info.rnext_key)
        or (not flags & 3 and key.matches(l3index, address, prefix, sndid, rcvid))
    ]
    size = min(len(value), GET.size)
    packed = [_pack_key(info, key)[:size].ljust(len(value), b"\0") for key in found[:nkeys]]
    head = bytearray(packed[0] if packed else value)
    head[_NKEYS_AT : _NKEYS_AT + 4] = len(found).to_bytes(4, "little")
    return bytes(head) + b"".join(packed[1:])


def _pack_key(info: AoInfo, key: AoKey) -> bytes:
    flags = int(key is info.current_key) | int(key is info.rnext_key) << 1
    return GET.pack(
        encode_sockaddr(key.address), key.algorithm.name.encode(), key.master, 0, flags, key.sndid, key.rcvid,
        key.prefix, key.maclen, key.key_flags, len(key.master), key.l3index, key.pkt_good, key.pkt_bad,
    )  # fmt: skip


def _repairable(sk: TcpSock) -> None:
    if sk.state == TCP_LISTEN or not sk.repair:
        raise error(errno.EPERM, "TCP_AO_REPAIR is for repair mode only")


def set_repair(sk: TcpSock, value: bytes) -> None:
    """TCP_AO_REPAIR: initial numbers and the upper halves of those of now (Linux: tcp_ao_set_repair)."""
    if sk.state == TCP_LISTEN:
        raise error(errno.EPERM, "a listener has nothing to repair")
    snt_isn, rcv_isn, snd_sne, rcv_sne = _struct(REPAIR, value)
    _repairable(sk)
    info = _info_of(sk)
    info.lisn = int.from_bytes(snt_isn, "big")
    info.risn = int.from_bytes(rcv_isn, "big")
    info.snd_sne, info.snd_seen = snd_sne, sk.snd_una
    info.rcv_sne, info.rcv_seen = rcv_sne, sk.rcv_nxt
    for key in info.keys:
        info.cache_traffic_keys(sk, key)


def get_repair(sk: TcpSock, length: int) -> bytes:
    """The same, to be restored elsewhere (Linux: tcp_ao_get_repair)."""
    if sk.state == TCP_LISTEN:
        raise error(errno.EPERM, "a listener has nothing to repair")
    _check(length <= 0, "no room for the structure")
    _repairable(sk)
    info = _info_of(sk)
    # As of now: the halves are brought up to date only as segments are signed and checked.
    info.send_sne(sk, sk.snd_una, sk.snd_una)
    info.receive_sne(sk, sk.rcv_nxt, sk.rcv_nxt)
    packed = REPAIR.pack(info.lisn.to_bytes(4, "big"), info.risn.to_bytes(4, "big"), info.snd_sne, info.rcv_sne)
    return packed[:length]
