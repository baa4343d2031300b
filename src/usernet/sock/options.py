"""Socket options at SOL_SOCKET, which all protocols share (Linux: sk_setsockopt, sk_getsockopt; socket(7)).

A protocol's `setsockopt` calls `sock_setsockopt` for SOL_SOCKET, after it has done what the option means to it beyond
the flag (TCP: SO_KEEPALIVE's timer, SO_RCVLOWAT). Values are bytes as Linux lays them out for x86-64, but for filters:
a `struct sock_fprog` holds a pointer, so what reaches this floor is the row of `struct sock_filter` it points to.

A stack's user is its administrator: there is no option that needs a privilege it lacks.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.core.sysctl import INT_MAX
from usernet.core.timer import NEVER
from usernet.net.pacing import SK_PACING_NEEDED, SK_PACING_NONE
from usernet.netdevice.device import IFNAMSIZ
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sock.cookies import SockCookies
from usernet.sock.filter import BPF_INSN_SIZE, Program
from usernet.sock.optval import UINT_MAX, decode_int, encode_int, pack_name
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, Sock, set_buffer
from usernet.sock.sockopt import (
    SO_ACCEPTCONN,
    SO_ATTACH_BPF,
    SO_ATTACH_FILTER,
    SO_ATTACH_REUSEPORT_CBPF,
    SO_ATTACH_REUSEPORT_EBPF,
    SO_BINDTODEVICE,
    SO_BINDTOIFINDEX,
    SO_BPF_EXTENSIONS,
    SO_BROADCAST,
    SO_BSDCOMPAT,
    SO_BUF_LOCK,
    SO_BUSY_POLL,
    SO_BUSY_POLL_BUDGET,
    SO_CNX_ADVICE,
    SO_COOKIE,
    SO_DEBUG,
    SO_DETACH_FILTER,
    SO_DETACH_REUSEPORT_BPF,
    SO_DOMAIN,
    SO_DONTROUTE,
    SO_ERROR,
    SO_GET_FILTER,
    SO_INCOMING_CPU,
    SO_INCOMING_NAPI_ID,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_LOCK_FILTER,
    SO_MARK,
    SO_MAX_PACING_RATE,
    SO_MEMINFO,
    SO_NETNS_COOKIE,
    SO_NO_CHECK,
    SO_NOFCS,
    SO_OOBINLINE,
    SO_PASSCRED,
    SO_PASSPIDFD,
    SO_PASSSEC,
    SO_PEEK_OFF,
    SO_PEERCRED,
    SO_PEERGROUPS,
    SO_PEERNAME,
    SO_PEERPIDFD,
    SO_PREFER_BUSY_POLL,
    SO_PRIORITY,
    SO_PROTOCOL,
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_RCVLOWAT,
    SO_RCVMARK,
    SO_RCVTIMEO,
    SO_RCVTIMEO_NEW,
    SO_RESERVE_MEM,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_RXQ_OVFL,
    SO_SELECT_ERR_QUEUE,
    SO_SNDBUF,
    SO_SNDBUFFORCE,
    SO_SNDLOWAT,
    SO_SNDTIMEO,
    SO_SNDTIMEO_NEW,
    SO_TIMESTAMP,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMPING,
    SO_TIMESTAMPING_NEW,
    SO_TIMESTAMPNS,
    SO_TIMESTAMPNS_NEW,
    SO_TXREHASH,
    SO_TYPE,
    SO_WIFI_STATUS,
    SO_ZEROCOPY,
    SOCK_DBG,
    SOCK_FILTER_LOCKED,
    SOCK_NO_TXREHASH,
    SOCK_NOFCS,
    SOCK_PASSCRED,
    SOCK_PASSPIDFD,
    SOCK_PASSSEC,
    SOCK_PREFER_BUSY_POLL,
    SOCK_RCVMARK,
    SOCK_SELECT_ERR_QUEUE,
    SOCK_TSTAMP_NEW,
    SOCK_WIFI_STATUS,
    SOF_TIMESTAMPING_BIND_PHC,
    SOF_TIMESTAMPING_MASK,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_ID_TCP,
    SOF_TIMESTAMPING_OPT_STATS,
    SOF_TIMESTAMPING_OPT_TSONLY,
)

_FLAGS: Final[dict[int, int]] = {
    SO_DEBUG: SOCK_DBG,
    SO_WIFI_STATUS: SOCK_WIFI_STATUS,
    SO_NOFCS: SOCK_NOFCS,
    SO_SELECT_ERR_QUEUE: SOCK_SELECT_ERR_QUEUE,
    SO_RCVMARK: SOCK_RCVMARK,
    SO_PASSCRED: SOCK_PASSCRED,
    SO_PASSSEC: SOCK_PASSSEC,
    SO_PASSPIDFD: SOCK_PASSPIDFD,
    SO_PREFER_BUSY_POLL: SOCK_PREFER_BUSY_POLL,
}
_BOOLEANS: Final[dict[int, str]] = {
    SO_REUSEADDR: "reuse",
    SO_DONTROUTE: "dontroute",
    SO_BROADCAST: "broadcast",
    SO_KEEPALIVE: "keepopen",
    SO_OOBINLINE: "oobinline",
    SO_NO_CHECK: "no_check_tx",
    SO_RXQ_OVFL: "rxq_ovfl",
}

SOCK_SNDBUF_LOCK: Final = 1
SOCK_RCVBUF_LOCK: Final = 2
TCP_LISTEN: Final = 10
IPPROTO_UDP: Final = 17

_UINT: Final = Struct("=I")
_INT2: Final = Struct("=ii")
_U64: Final = Struct("=Q")
_TIMEVAL: Final = Struct("=qq")
_MEMINFO: Final = Struct("=9I")
_UCRED: Final = Struct("=iii")


# -- setting


def sock_setsockopt(sk: Sock, option: int, value: bytes) -> None:
    """Set a SOL_SOCKET option.

    value: as Linux lays it out; for filters the row of instructions (the module's text).
    Raises OSError: ENOPROTOOPT (unknown, or read only), EINVAL (too short, out of range), EDOM (no such time), ENODEV,
    EOPNOTSUPP (not for this protocol), EPERM (the filter is locked), ENOENT (no filter to detach).
    """
    if option == SO_BINDTODEVICE:
        _bind_to_device(sk, value)
        return
    if option in (SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF):
        _attach_filter(sk, option, value)
        return
    number = decode_int(value)
    on = number != 0
    attribute = _BOOLEANS.get(option)
    if attribute is not None:
        setattr(sk, attribute, on)
        if option == SO_DONTROUTE:
            sk.dst = None
        return
    flag = _FLAGS.get(option)
    if flag is not None:
        sk.sock_flags = sk.sock_flags | flag if on else sk.sock_flags & ~flag
        return
    if option == SO_RCVBUF:
        # A negative size is a huge unsigned one to Linux, and so the limit.
        set_buffer(sk, number & UINT_MAX, sk.settings.rmem_max, True)
    elif option == SO_SNDBUF:
        set_buffer(sk, number & UINT_MAX, sk.settings.wmem_max, False)
        sk.write_space()
    elif option == SO_RCVBUFFORCE:
        set_buffer(sk, number, INT_MAX, True)
    elif option == SO_SNDBUFFORCE:
        set_buffer(sk, number, INT_MAX, False)
        sk.write_space()
    elif option in (SO_RCVTIMEO, SO_RCVTIMEO_NEW):
        sk.rcvtimeo = _decode_timeout(value)
    elif option in (SO_SNDTIMEO, SO_SNDTIMEO_NEW):
        sk.sndtimeo = _decode_timeout(value)
    elif option == SO_LINGER:
        if len(value) < 8:
            raise error(errno.EINVAL, f"SO_LINGER: expected struct linger (8 bytes), not {len(value)} bytes")
        linger: int = _UINT.unpack_from(value, 4)[0]
        sk.linger = min(linger, INT_MAX) if on else -1
    elif option == SO_REUSEPORT:
        if on and sk.family not in (2, 10):
            raise error(errno.EOPNOTSUPP)
        sk.reuseport = on
    elif option == SO_PRIORITY:
        sk.priority = number & UINT_MAX
    elif option == SO_MARK:
        if sk.mark != number & UINT_MAX:
            sk.mark = number & UINT_MAX
            sk.dst = None
    elif option in (SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW):
        sk.rcvtstamp = option if on else 0
    elif option in (SO_TIMESTAMPING, SO_TIMESTAMPING_NEW):
        _set_timestamping(sk, option, number)
    elif option == SO_RCVLOWAT:
        sk.rcvlowat = INT_MAX if number < 0 else number or 1
    elif option == SO_PEEK_OFF:
        if not _has_peek_off(sk):
            raise error(errno.EOPNOTSUPP)
        sk.peek_off = number
    elif option == SO_BINDTOIFINDEX:
        _check_range("SO_BINDTOIFINDEX", number, 0, INT_MAX)
        _bind_to_index(sk, number)
    elif option == SO_MAX_PACING_RATE:
        rate: int = _U64.unpack_from(value)[0] if len(value) >= 8 else number & UINT_MAX
        unlimited = rate == (1 << 64) - 1 if len(value) >= 8 else rate == UINT_MAX
        sk.max_pacing_rate = 0 if unlimited else rate
        if not unlimited:
            if sk.pacing_status == SK_PACING_NONE:
                sk.pacing_status = SK_PACING_NEEDED
            sk.pacing_rate = min(sk.pacing_rate, rate)
    elif option == SO_ZEROCOPY:
        if not (sk.sock_type == SOCK_STREAM or (sk.sock_type == SOCK_DGRAM and sk.protocol == IPPROTO_UDP)):
            raise error(errno.EOPNOTSUPP)
        _check_range("SO_ZEROCOPY", number, 0, 1)
        sk.zerocopy = on
    elif option == SO_INCOMING_CPU:
        sk.incoming_cpu = number
    elif option == SO_BUSY_POLL:
        _check_range("SO_BUSY_POLL", number, 0, INT_MAX)
        sk.busy_poll = number
    elif option == SO_BUSY_POLL_BUDGET:
        _check_range("SO_BUSY_POLL_BUDGET", number, 0, 0xFFFF)
    elif option == SO_BUF_LOCK:
        _check_range("SO_BUF_LOCK", number, 0, SOCK_SNDBUF_LOCK | SOCK_RCVBUF_LOCK)
        sk.sndbuf_locked = bool(number & SOCK_SNDBUF_LOCK)
        sk.rcvbuf_locked = bool(number & SOCK_RCVBUF_LOCK)
    elif option == SO_TXREHASH:
        _check_range("SO_TXREHASH", number, -1, 1)
        sk.sock_flags = sk.sock_flags & ~SOCK_NO_TXREHASH if number else sk.sock_flags | SOCK_NO_TXREHASH
    elif option == SO_DETACH_FILTER:
        _check_filter_lock(sk)
        if sk.filter is None:
            raise error(errno.ENOENT, "no filter is attached")
        sk.filter = None
    elif option == SO_DETACH_REUSEPORT_BPF:
        if sk.reuseport_filter is None:
            raise error(errno.ENOENT if sk.reuseport else errno.EINVAL, "no reuseport program is attached")
        sk.reuseport_filter = None
    elif option == SO_LOCK_FILTER:
        if sk.sock_flags & SOCK_FILTER_LOCKED and not on:
            raise error(errno.EPERM, "a locked filter stays locked")
        if on:
            sk.sock_flags |= SOCK_FILTER_LOCKED
    elif option == SO_CNX_ADVICE:
        if number == 1:
            sk.dst = None
    elif option == SO_BSDCOMPAT:
        pass
    elif option == SO_RESERVE_MEM:
        _check_range("SO_RESERVE_MEM", number, 0, 1 << 30)
        raise error(errno.EOPNOTSUPP, "SO_RESERVE_MEM needs memory control groups")
    elif option in (SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_EBPF):
        raise error(errno.EINVAL, "there is no eBPF here: only classic filters can be attached")
    else:
        # SO_TXTIME is among them: no queueing discipline here sends at a given time.
        raise error(errno.ENOPROTOOPT)


def _check_range(name: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise error(errno.EINVAL, f"{name}: expected {low} to {high}, not {number}")


def _decode_timeout(value: bytes) -> int:
    """A `struct timeval` in ns, NEVER for zero (Linux: sock_set_timeout)."""
    if len(value) < 16:
        raise error(errno.EINVAL, f"time-out: expected struct timeval (16 bytes), not {len(value)} bytes")
    seconds: int
    micros: int
    seconds, micros = _TIMEVAL.unpack_from(value)
    if not 0 <= micros < 1_000_000:
        raise error(errno.EDOM, f"time-out: expected 0 to 999999 microseconds, not {micros}")
    if seconds < 0:
        return 0
    if seconds == 0 and micros == 0:
        return NEVER
    return min(seconds * 1_000_000_000 + micros * 1000, NEVER)


def _has_peek_off(sk: Sock) -> bool:
    return sk.family in (2, 10) and sk.sock_type != SOCK_RAW


def _set_timestamping(sk: Sock, option: int, flags: int) -> None:
    """Linux: sock_set_timestamping."""
    if flags & ~SOF_TIMESTAMPING_MASK:
        raise error(errno.EINVAL, f"SO_TIMESTAMPING: expected bits of {SOF_TIMESTAMPING_MASK:#x}, not {flags:#x}")
    if flags & SOF_TIMESTAMPING_OPT_ID_TCP and not flags & SOF_TIMESTAMPING_OPT_ID:
        raise error(errno.EINVAL, "SO_TIMESTAMPING: OPT_ID_TCP needs OPT_ID")
    if flags & SOF_TIMESTAMPING_OPT_STATS and not flags & SOF_TIMESTAMPING_OPT_TSONLY:
        raise error(errno.EINVAL, "SO_TIMESTAMPING: OPT_STATS needs OPT_TSONLY")
    if flags & SOF_TIMESTAMPING_BIND_PHC:
        raise error(errno.EINVAL, "SO_TIMESTAMPING: no device here has a clock of its own")
    if flags & SOF_TIMESTAMPING_OPT_ID and not sk.tsflags & SOF_TIMESTAMPING_OPT_ID:
        sk.tskey = sk.first_timestamping_key(bool(flags & SOF_TIMESTAMPING_OPT_ID_TCP))
    sk.tsflags = flags
    sk.sock_flags = (
        sk.sock_flags | SOCK_TSTAMP_NEW if option == SO_TIMESTAMPING_NEW else sk.sock_flags & ~SOCK_TSTAMP_NEW
    )


def _bind_to_device(sk: Sock, value: bytes) -> None:
    """Linux: sock_setbindtodevice. An empty name unbinds."""
    name = value[: IFNAMSIZ - 1].split(b"\0", 1)[0]
    index = 0
    if name:
        dev = sk.net.get(DeviceNamespace).get(name.decode("utf-8", "surrogateescape"))
        if dev is None:
            raise error(errno.ENODEV)
        index = dev.index
    _bind_to_index(sk, index)


def _bind_to_index(sk: Sock, index: int) -> None:
    sk.bound_dev_if = index
    sk.dst = None


def _check_filter_lock(sk: Sock) -> None:
    if sk.sock_flags & SOCK_FILTER_LOCKED:
        raise error(errno.EPERM, "the socket's filter is locked")


def _attach_filter(sk: Sock, option: int, value: bytes) -> None:
    """Linux: sk_attach_filter, sk_reuseport_attach_filter."""
    if option == SO_ATTACH_FILTER:
        _check_filter_lock(sk)
        sk.filter = Program(value)
        return
    if not sk.reuseport and sk.family in (2, 10):
        raise error(errno.EINVAL, "SO_ATTACH_REUSEPORT_CBPF: the socket has no SO_REUSEPORT")
    sk.reuseport_filter = Program(value)


# -- getting


def sock_getsockopt(sk: Sock, option: int, length: int) -> bytes:
    """The value of a SOL_SOCKET option as Linux lays it out, at most `length` bytes of it.

    Raises OSError: ENOPROTOOPT (unknown, or write only), EINVAL (`length` negative or too small), EOPNOTSUPP, ENOTCONN
    (SO_PEERNAME), ENODATA (credentials of a peer, which an internet socket has none of).
    """
    if length < 0:
        raise error(errno.EINVAL, f"option length: expected 0 or more bytes, not {length}")
    attribute = _BOOLEANS.get(option)
    if attribute is not None:
        return encode_int(int(getattr(sk, attribute)), length)
    flag = _FLAGS.get(option)
    if flag is not None:
        return encode_int(1 if sk.sock_flags & flag else 0, length)
    number: int
    if option == SO_ERROR:
        number = sk.take_error()
        if not number:
            number = sk.err_soft
            sk.err_soft = 0
    elif option == SO_TYPE:
        number = sk.sock_type
    elif option == SO_PROTOCOL:
        number = sk.protocol
    elif option == SO_DOMAIN:
        number = sk.family
    elif option == SO_RCVBUF:
        number = sk.rcvbuf
    elif option == SO_SNDBUF:
        number = sk.sndbuf
    elif option == SO_REUSEPORT:
        number = int(sk.reuseport)
    elif option == SO_ACCEPTCONN:
        number = int(sk.state == TCP_LISTEN)
    elif option in (SO_RCVTIMEO, SO_RCVTIMEO_NEW):
        return _encode_timeout(sk.rcvtimeo)[:length]
    elif option in (SO_SNDTIMEO, SO_SNDTIMEO_NEW):
        return _encode_timeout(sk.sndtimeo)[:length]
    elif option == SO_LINGER:
        return _INT2.pack(int(sk.linger >= 0), max(sk.linger, 0))[:length]
    elif option == SO_PRIORITY:
        number = sk.priority
    elif option == SO_MARK:
        number = sk.mark
    elif option in (SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW):
        number = int(sk.rcvtstamp == option)
    elif option in (SO_TIMESTAMPING, SO_TIMESTAMPING_NEW):
        shown = option == SO_TIMESTAMPING or sk.sock_flags & SOCK_TSTAMP_NEW
        return _INT2.pack(sk.tsflags if shown else 0, 0)[:length]
    elif option == SO_RCVLOWAT:
        number = sk.rcvlowat
    elif option == SO_SNDLOWAT:
        number = 1
    elif option == SO_PEEK_OFF:
        if not _has_peek_off(sk):
            raise error(errno.EOPNOTSUPP)
        number = sk.peek_off
    elif option == SO_BINDTODEVICE:
        return _device_name(sk, length)
    elif option == SO_BINDTOIFINDEX:
        number = sk.bound_dev_if
    elif option == SO_MAX_PACING_RATE:
        rate = sk.max_pacing_rate or (1 << 64) - 1
        if length >= 8:
            return _U64.pack(rate)
        number = min(rate, UINT_MAX)
    elif option == SO_ZEROCOPY:
        number = int(sk.zerocopy)
    elif option == SO_INCOMING_CPU:
        number = sk.incoming_cpu
    elif option == SO_BUSY_POLL:
        number = sk.busy_poll
    elif option == SO_BUF_LOCK:
        number = (SOCK_SNDBUF_LOCK if sk.sndbuf_locked else 0) | (SOCK_RCVBUF_LOCK if sk.rcvbuf_locked else 0)
    elif option == SO_TXREHASH:
        number = 0 if sk.sock_flags & SOCK_NO_TXREHASH else 1
    elif option == SO_LOCK_FILTER:
        number = int(bool(sk.sock_flags & SOCK_FILTER_LOCKED))
    elif option == SO_MEMINFO:
        # rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops; there is no backlog here.
        return _MEMINFO.pack(
            sk.rmem_alloc, sk.rcvbuf, sk.wmem_alloc, sk.sndbuf, 0, sk.wmem_queued, sk.omem_alloc, 0,
            sk.drops & UINT_MAX,
        )[:length]  # fmt: skip
    elif option in (SO_COOKIE, SO_NETNS_COOKIE):
        if length < 8 or (option == SO_NETNS_COOKIE and length != 8):
            raise error(errno.EINVAL, f"cookie: expected room for 8 bytes, not {length}")
        cookies = sk.net.get(SockCookies)
        return _U64.pack(cookies.of(sk) if option == SO_COOKIE else cookies.netns)
    elif option == SO_GET_FILTER:
        return _filter_of(sk, length)
    elif option == SO_PEERNAME:
        try:
            name = pack_name(sk.getpeername())
        except OSError:
            raise error(errno.ENOTCONN) from None
        if len(name) < length:
            raise error(errno.EINVAL, f"SO_PEERNAME: expected room for at most {len(name)} bytes, not {length}")
        return name[:length]
    elif option == SO_PEERCRED:
        return _UCRED.pack(0, -1, -1)[:length]
    elif option in (SO_PEERGROUPS, SO_PEERPIDFD):
        raise error(errno.ENODATA)
    elif option == SO_BPF_EXTENSIONS:
        number = 64
    elif option in (SO_INCOMING_NAPI_ID, SO_BSDCOMPAT, SO_RESERVE_MEM):
        number = 0
    else:
        raise error(errno.ENOPROTOOPT)
    return encode_int(number, length)


def _encode_timeout(timeout: int) -> bytes:
    if timeout == NEVER:
        return bytes(16)
    seconds, rest = divmod(timeout, 1_000_000_000)
    return _TIMEVAL.pack(seconds, rest // 1000)


def _device_name(sk: Sock, length: int) -> bytes:
    """Linux: sock_getbindtodevice; empty where it is bound to none."""
    if not sk.bound_dev_if:
        return b""
    if length < IFNAMSIZ:
        raise error(errno.EINVAL, f"SO_BINDTODEVICE: expected room for {IFNAMSIZ} bytes, not {length}")
    dev = sk.net.get(DeviceNamespace).by_index(sk.bound_dev_if)
    if dev is None:
        raise error(errno.ENODEV)
    return dev.name.encode("utf-8", "surrogateescape") + b"\0"


def _filter_of(sk: Sock, length: int) -> bytes:
    """Linux: sk_get_filter, with `length` in bytes instead of instructions."""
    if sk.filter is None:
        return b""
    program: Program = sk.filter
    code = program.code
    if length < len(code):
        size = len(code) // BPF_INSN_SIZE
        raise error(errno.EINVAL, f"SO_GET_FILTER: expected room for {size} instructions of {BPF_INSN_SIZE} bytes")
    return code
