"""TCP's socket options (tcp(7); Linux: do_tcp_setsockopt, do_tcp_getsockopt)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from usernet.core.errors import error
from usernet.sock.options import sock_getsockopt, sock_setsockopt
from usernet.sock.optval import decode_int, encode_int
from usernet.transport.tcp import ao_sockopt, fastopen, repair
from usernet.transport.tcp.ao_sockopt import (
    TCP_AO_ADD_KEY,
    TCP_AO_DEL_KEY,
    TCP_AO_GET_KEYS,
    TCP_AO_INFO,
    TCP_AO_REPAIR,
)
from usernet.transport.tcp.congestion import base as congestion
from usernet.transport.tcp.const import (
    MAX_TCP_KEEPCNT,
    MAX_TCP_KEEPIDLE,
    MAX_TCP_KEEPINTVL,
    MAX_TCP_SYNCNT,
    MSEC,
    SEC,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_DELACK_MAX,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCP_MIN_MSS,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_RTO_MIN,
    TCP_TIMEOUT_INIT,
    TCP_TIMEOUT_MIN_US,
)
from usernet.transport.tcp.info import pack_info
from usernet.transport.tcp.md5 import TCP_MD5SIG, TCP_MD5SIG_EXT, set_md5
from usernet.transport.tcp.repair import (
    TCP_QUEUE_SEQ,
    TCP_REPAIR,
    TCP_REPAIR_OPTIONS,
    TCP_REPAIR_QUEUE,
    TCP_REPAIR_WINDOW,
    TCP_TIMESTAMP,
)
from usernet.transport.tcp.sendmsg import set_cork, set_nodelay
from usernet.transport.tcp.window import set_window_clamp

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

SOL_SOCKET: Final = 1
SOL_TCP: Final = 6
SO_KEEPALIVE: Final = 9

TCP_NODELAY: Final = 1
TCP_MAXSEG: Final = 2
TCP_CORK: Final = 3
TCP_KEEPIDLE: Final = 4
TCP_KEEPINTVL: Final = 5
TCP_KEEPCNT: Final = 6
TCP_SYNCNT: Final = 7
TCP_LINGER2: Final = 8
TCP_DEFER_ACCEPT: Final = 9
TCP_WINDOW_CLAMP: Final = 10
TCP_INFO: Final = 11
TCP_QUICKACK: Final = 12
TCP_CONGESTION: Final = 13
TCP_ULP: Final = 31
TCP_THIN_LINEAR_TIMEOUTS: Final = 16
TCP_THIN_DUPACK: Final = 17
TCP_USER_TIMEOUT: Final = 18
TCP_FASTOPEN: Final = 23
TCP_FASTOPEN_CONNECT: Final = 30
TCP_FASTOPEN_KEY: Final = 33
TCP_FASTOPEN_NO_COOKIE: Final = 34
TCP_NOTSENT_LOWAT: Final = 25
TCP_CC_INFO: Final = 26
TCP_SAVE_SYN: Final = 27
TCP_SAVED_SYN: Final = 28
TCP_INQ: Final = 36
TCP_RTO_MAX_MS: Final = 44
TCP_RTO_MIN_US: Final = 45
TCP_DELACK_MAX_US: Final = 46

TCP_CA_NAME_MAX: Final = 16
TCP_FIN_TIMEOUT_MAX: Final = 120


def secs_to_retrans(seconds: int, timeout: int, rto_max: int) -> int:
    """How many time-outs, starting at `timeout` and doubling up to `rto_max`, `seconds` are (secs_to_retrans)."""
    count = 0
    if seconds > 0:
        period = timeout
        count = 1
        while seconds > period and count < 255:
            count += 1
            timeout = min(timeout << 1, rto_max)
            period += timeout
    return count


def retrans_to_secs(count: int, timeout: int, rto_max: int) -> int:
    """The reverse (Linux: retrans_to_secs)."""
    period = 0
    if count > 0:
        period = timeout
        while count > 1:
            timeout = min(timeout << 1, rto_max)
            period += timeout
            count -= 1
    return period


def setsockopt(sk: TcpSock, level: int, option: int, value: bytes) -> None:
    """Set an option of SOL_SOCKET, SOL_TCP or the address family's level.

    value: as Linux lays it out. Raises OSError: ENOPROTOOPT, EINVAL, and what the levels below raise.
    """
    if level == SOL_SOCKET:
        sock_setsockopt(sk, option, value)
        if option == SO_KEEPALIVE:
            _set_keepalive(sk)
        return
    if level != SOL_TCP:
        if level != sk.af.level:
            raise error(errno.ENOPROTOOPT)
        sk.af.setsockopt(sk, option, value)
        return
    if option == TCP_CONGESTION:
        _set_congestion(sk, value)
        return
    if option == TCP_FASTOPEN_KEY:
        fastopen.set_keys(sk, value)
        return
    if option in (TCP_MD5SIG, TCP_MD5SIG_EXT):
        set_md5(sk, option, value)
        return
    if option in (TCP_REPAIR_OPTIONS, TCP_REPAIR_WINDOW) and len(value) >= 4:
        (repair.set_options if option == TCP_REPAIR_OPTIONS else repair.set_window)(sk, value)
        return
    if option == TCP_AO_REPAIR:
        ao_sockopt.set_repair(sk, value)
        return
    if option in (TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO):
        ao_sockopt.set_ao(sk, option, value)
        return
    if option == TCP_ULP and value:
        raise error(errno.ENOENT, "TCP_ULP: the stack has no upper-layer protocols")
    number = decode_int(value)
    if option == TCP_NODELAY:
        set_nodelay(sk, bool(number))
    elif option == TCP_CORK:
        set_cork(sk, bool(number))
    elif option == TCP_MAXSEG:
        if number and not TCP_MIN_MSS <= number <= 32767:
            raise error(errno.EINVAL, f"TCP_MAXSEG: expected 0 or {TCP_MIN_MSS} to 32767, not {number}")
        sk.change_params().user_mss = number
    elif option == TCP_KEEPIDLE:
        _check("TCP_KEEPIDLE", number, 1, MAX_TCP_KEEPIDLE)
        sk.change_params().keepidle = number * SEC
        if sk.keepopen and sk.state not in (TCP_CLOSE, TCP_LISTEN):
            elapsed = sk.loop.now - max(sk.ack_lrcvtime, sk.rcv_tstamp)
            sk.reset_keepalive_timer(max(sk.params.keepidle - elapsed, 0))
    elif option == TCP_KEEPINTVL:
        _check("TCP_KEEPINTVL", number, 1, MAX_TCP_KEEPINTVL)
        sk.change_params().keepintvl = number * SEC
    elif option == TCP_KEEPCNT:
        _check("TCP_KEEPCNT", number, 1, MAX_TCP_KEEPCNT)
        sk.change_params().keepcnt = number
    elif option == TCP_SYNCNT:
        _check("TCP_SYNCNT", number, 1, MAX_TCP_SYNCNT)
        sk.change_params().syn_retries = number
    elif option == TCP_LINGER2:
        sk.change_params().linger2 = -1 if number < 0 else 120 * SEC if number > TCP_FIN_TIMEOUT_MAX else number * SEC
    elif option == TCP_DEFER_ACCEPT:
        sk.own_request_queue().defer_accept = secs_to_retrans(number, TCP_TIMEOUT_INIT // SEC, sk.rto_max // SEC)
    elif option == TCP_WINDOW_CLAMP:
        _set_window_clamp(sk, number)
    elif option == TCP_QUICKACK:
        _set_quickack(sk, number)
    elif option == TCP_USER_TIMEOUT:
        if number < 0:
            raise error(errno.EINVAL, f"TCP_USER_TIMEOUT: expected milliseconds, not {number}")
        sk.change_params().user_timeout = number * MSEC
    elif option == TCP_NOTSENT_LOWAT:
        sk.notsent_lowat = number & 0xFFFFFFFF
        sk.write_space()
    elif option == TCP_THIN_LINEAR_TIMEOUTS:
        _check("TCP_THIN_LINEAR_TIMEOUTS", number, 0, 1)
        sk.change_params().thin_lto = bool(number)
    elif option == TCP_THIN_DUPACK:
        # Accepted and without effect, as in Linux: RACK made it needless.
        _check("TCP_THIN_DUPACK", number, 0, 1)
    elif option == TCP_SAVE_SYN:
        # 1 for the SYN's headers from the network's on, 2 for the link's too.
        _check("TCP_SAVE_SYN", number, 0, 2)
        sk.own_request_queue().save_syn = number
    elif option == TCP_INQ:
        _check("TCP_INQ", number, 0, 1)
        sk.change_params().inq_wanted = bool(number)
    elif option == TCP_RTO_MAX_MS:
        _check("TCP_RTO_MAX_MS", number, 1000, 120_000)
        sk.rto_max = number * MSEC
    elif option == TCP_RTO_MIN_US:
        _check("TCP_RTO_MIN_US", number, TCP_TIMEOUT_MIN_US, TCP_RTO_MIN // 1000)
        sk.rto_min = number
    elif option == TCP_DELACK_MAX_US:
        _check("TCP_DELACK_MAX_US", number, TCP_TIMEOUT_MIN_US, TCP_DELACK_MAX // 1000)
        sk.change_params().delack_max = number * 1000
    elif option == TCP_FASTOPEN:
        if number < 0 or sk.state not in (TCP_CLOSE, TCP_LISTEN):
            raise error(errno.EINVAL)
        fastopen.set_queue(sk, number)
    elif option == TCP_FASTOPEN_CONNECT:
        _check("TCP_FASTOPEN_CONNECT", number, 0, 1)
        if not sk.tcp.tcp_fastopen & fastopen.TFO_CLIENT_ENABLE:
            raise error(errno.EOPNOTSUPP)
        if sk.state != TCP_CLOSE:
            raise error(errno.EINVAL)
        sk.own_tfo().fastopen_connect = bool(number)
    elif option == TCP_FASTOPEN_NO_COOKIE:
        _check("TCP_FASTOPEN_NO_COOKIE", number, 0, 1)
        if sk.state not in (TCP_CLOSE, TCP_LISTEN):
            raise error(errno.EINVAL)
        sk.own_tfo().fastopen_no_cookie = bool(number)
    elif option == TCP_REPAIR:
        repair.set_repair(sk, number)
    elif option in (TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_TIMESTAMP):
        repair.set_number(sk, option, number)
    else:
        raise error(errno.ENOPROTOOPT)


def _check(name: str, number: int, low: int, high: int) -> None:
    if not low <= number <= high:
        raise error(errno.EINVAL, f"{name}: expected {low} to {high}, not {number}")


def _set_keepalive(sk: TcpSock) -> None:
    """SO_KEEPALIVE was set (Linux: tcp_set_keepalive)."""
    if sk.state in (TCP_CLOSE, TCP_LISTEN):
        return
    timer = sk.keepalive_timer
    if sk.keepopen:
        if timer is None or not timer.pending:
            sk.reset_keepalive_timer(sk.keepalive_time())
    elif timer is not None:
        timer.cancel()


def _set_congestion(sk: TcpSock, value: bytes) -> None:
    """TCP_CONGESTION (Linux: tcp_set_congestion_control)."""
    if not value:
        raise error(errno.EINVAL, "TCP_CONGESTION: expected a name")
    name = value[: TCP_CA_NAME_MAX - 1].split(b"\0")[0].decode("ascii", "replace")
    dst = sk.dst
    if dst is not None and dst.congestion_locked and sk.state not in (TCP_CLOSE, TCP_LISTEN):
        raise error(errno.EPERM, "TCP_CONGESTION: the route has locked it")
    control = congestion.find(name)
    sk.change_params().ca_setsockopt = True
    if type(sk.ca) is control:
        return
    if sk.ca_ready:
        sk.ca_ready = False
        sk.ca.release(sk)
    congestion.assign(sk, control())
    if sk.state not in (TCP_CLOSE, TCP_LISTEN):
        congestion.start(sk)


def _set_window_clamp(sk: TcpSock, number: int) -> None:
    """TCP_WINDOW_CLAMP (Linux: tcp_set_window_clamp)."""
    if not number:
        if sk.state != TCP_CLOSE:
            raise error(errno.EINVAL, "TCP_WINDOW_CLAMP: 0 is for a closed socket only")
        sk.window_clamp = 0
        return
    clamp = min(max(number, 2304 // 2), 65535 << TCP_MAX_WSCALE)
    set_window_clamp(sk, clamp)


def _set_quickack(sk: TcpSock, number: int) -> None:
    """TCP_QUICKACK (Linux: __tcp_sock_set_quickack)."""
    from usernet.transport.tcp.recvmsg import cleanup_rbuf

    if not number:
        sk.enter_pingpong()
        return
    sk.exit_pingpong()
    if sk.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) and sk.ack_pending & 1:
        sk.ack_pending |= 4
        cleanup_rbuf(sk, 1)
        if not number & 1:
            sk.enter_pingpong()


def getsockopt(sk: TcpSock, level: int, option: int, length: int) -> bytes:
    """Read an option; `length` is the room there is for it. Raises OSError: ENOPROTOOPT, EINVAL."""
    if level == SOL_SOCKET:
        return sock_getsockopt(sk, option, length)
    if level != SOL_TCP:
        if level != sk.af.level:
            raise error(errno.EOPNOTSUPP)
        return sk.af.getsockopt(sk, option, length)
    if length < 0:
        raise error(errno.EINVAL, f"option length: expected 0 or more bytes, not {length}")
    if option == TCP_AO_REPAIR:
        return ao_sockopt.get_repair(sk, length)
    if option == TCP_REPAIR_WINDOW:
        return repair.get_window(sk, length)
    if option in (TCP_AO_INFO, TCP_AO_GET_KEYS):
        return getsockopt_from(sk, level, option, bytes(length))
    if option == TCP_SAVED_SYN:
        return _take_saved_syn(sk, length)
    if option == TCP_INFO:
        return pack_info(sk)[:length]
    if option == TCP_FASTOPEN_KEY:
        return b"".join(sk.request_queue.fastopen_keys)[:length]
    if option == TCP_CC_INFO:
        return sk.ca.pack_info(sk)[:length]
    if option == TCP_CONGESTION:
        return sk.ca.name.encode().ljust(TCP_CA_NAME_MAX, b"\0")[:length]
    return encode_int(_get_int(sk, option), length)


def getsockopt_from(sk: TcpSock, level: int, option: int, value: bytes) -> bytes:
    """As `getsockopt`, into a buffer that holds `value`: TCP_AO_INFO and TCP_AO_GET_KEYS read it first."""
    if level == SOL_TCP:
        if option == TCP_AO_INFO:
            return ao_sockopt.get_info(sk, value)
        if option == TCP_AO_GET_KEYS:
            return ao_sockopt.get_keys(sk, value)
    return getsockopt(sk, level, option, len(value))


def _take_saved_syn(sk: TcpSock, length: int) -> bytes:
    """TCP_SAVED_SYN: the headers of the SYN that made the connection, once; nothing where they were not saved."""
    saved = sk.saved_syn
    if saved is None:
        return b""
    if length < len(saved):
        raise error(errno.EINVAL, f"TCP_SAVED_SYN: expected room for {len(saved)} bytes, not {length}")
    sk.saved_syn = None
    return saved


def _get_int(sk: TcpSock, option: int) -> int:
    if option in (TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ):
        return repair.get_number(sk, option)
    if option == TCP_MAXSEG:
        if sk.repair:
            return sk.mss_clamp
        if sk.state in (TCP_CLOSE, TCP_LISTEN):
            return sk.params.user_mss or sk.mss_cache
        return sk.mss_cache
    if option == TCP_NODELAY:
        return int(bool(sk.nonagle & TCP_NAGLE_OFF))
    if option == TCP_CORK:
        return int(bool(sk.nonagle & TCP_NAGLE_CORK))
    if option == TCP_KEEPIDLE:
        return sk.keepalive_time() // SEC
    if option == TCP_KEEPINTVL:
        return sk.keepalive_intvl() // SEC
    if option == TCP_KEEPCNT:
        return sk.keepalive_probes()
    if option == TCP_SYNCNT:
        return sk.params.syn_retries or sk.tcp.tcp_syn_retries
    if option == TCP_LINGER2:
        if sk.params.linger2 < 0:
            return -1
        return sk.params.linger2 // SEC or sk.tcp.tcp_fin_timeout
    if option == TCP_DEFER_ACCEPT:
        return retrans_to_secs(sk.request_queue.defer_accept, TCP_TIMEOUT_INIT // SEC, sk.rto_max // SEC)
    if option == TCP_WINDOW_CLAMP:
        return sk.window_clamp
    if option == TCP_QUICKACK:
        return int(not sk.in_pingpong())
    if option == TCP_USER_TIMEOUT:
        return sk.params.user_timeout // MSEC
    if option == TCP_NOTSENT_LOWAT:
        return sk.notsent_lowat
    if option == TCP_THIN_LINEAR_TIMEOUTS:
        return int(sk.params.thin_lto)
    if option == TCP_THIN_DUPACK:
        return 0
    if option == TCP_SAVE_SYN:
        return sk.request_queue.save_syn
    if option == TCP_INQ:
        return int(sk.params.inq_wanted)
    if option == TCP_FASTOPEN:
        return sk.request_queue.fastopen_max_qlen
    if option == TCP_FASTOPEN_CONNECT:
        return int(sk.tfo.fastopen_connect)
    if option == TCP_FASTOPEN_NO_COOKIE:
        return int(sk.tfo.fastopen_no_cookie)
    if option == TCP_RTO_MAX_MS:
        return sk.rto_max // MSEC
    if option == TCP_RTO_MIN_US:
        return sk.rto_min
    if option == TCP_DELACK_MAX_US:
        return sk.params.delack_max // 1000
    if option == TCP_TIMESTAMP:
        return (sk.loop.now // MSEC + sk.tsoffset) & 0xFFFFFFFF
    raise error(errno.ENOPROTOOPT)
