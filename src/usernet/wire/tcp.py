"""TCP headers and options: RFC 9293 section 3.1, RFC 7323, RFC 2018, RFC 7413, RFC 5925, RFC 9768.

What follows the IP header of a packet of protocol 6. Linux: `tcp_parse_options`, `tcp_parse_aligned_timestamp`,
`tcp_options_write`, `include/net/tcp.h`.

    0       2       4     8     12           14       16      18        20
    | sport | dport | seq | ack | doff flags | window | check | urg_ptr | options …

Almost every segment of a connection carries the same twelve bytes of options, NOP NOP timestamp, so `build_ts` and
`parse_ts` are one struct call each; all others go through `parse_options`.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Final, TypeAlias, final

from usernet.core.compiled import COMPILED

if TYPE_CHECKING:
    from usernet.core.native import i64

TCP_HLEN: Final = 20
TCP_MAX_HLEN: Final = 60
TCP_CHECK_OFFSET: Final = 16  # for `csum_offset` of devices that fill the field
MAX_TCP_OPTION_SPACE: Final = 40

FIN: Final = 0x001
SYN: Final = 0x002
RST: Final = 0x004
PSH: Final = 0x008
ACK: Final = 0x010
URG: Final = 0x020
ECE: Final = 0x040
CWR: Final = 0x080
AE: Final = 0x100

TCPOPT_EOL: Final = 0
TCPOPT_NOP: Final = 1
TCPOPT_MSS: Final = 2
TCPOPT_WINDOW: Final = 3
TCPOPT_SACK_PERM: Final = 4
TCPOPT_SACK: Final = 5
TCPOPT_TIMESTAMP: Final = 8
TCPOPT_MD5SIG: Final = 19
TCPOPT_AO: Final = 29
TCPOPT_MPTCP: Final = 30
TCPOPT_FASTOPEN: Final = 34
TCPOPT_ACCECN0: Final = 172
TCPOPT_ACCECN1: Final = 174
TCPOPT_EXP: Final = 254
TCPOPT_FASTOPEN_MAGIC: Final = 0xF989

TCPOLEN_MSS: Final = 4
TCPOLEN_WINDOW: Final = 3
TCPOLEN_SACK_PERM: Final = 2
TCPOLEN_TIMESTAMP: Final = 10
TCPOLEN_MD5SIG: Final = 18
TCPOLEN_AO_MIN: Final = 5
TCPOLEN_FASTOPEN_BASE: Final = 2
TCPOLEN_EXP_FASTOPEN_BASE: Final = 4

# The same with their padding, as they are sent
TCPOLEN_TSTAMP_ALIGNED: Final = 12
TCPOLEN_WSCALE_ALIGNED: Final = 4
TCPOLEN_SACKPERM_ALIGNED: Final = 4
TCPOLEN_SACK_BASE: Final = 2
TCPOLEN_SACK_BASE_ALIGNED: Final = 4
TCPOLEN_SACK_PERBLOCK: Final = 8
TCPOLEN_MD5SIG_ALIGNED: Final = 20
TCPOLEN_MSS_ALIGNED: Final = 4

TCP_NUM_SACKS: Final = 4
TCP_MAX_WSCALE: Final = 14
TCP_FASTOPEN_COOKIE_MIN: Final = 4
TCP_FASTOPEN_COOKIE_MAX: Final = 16

_HDR: Final = Struct("!HHIIHHHH")
_HDR_TS: Final = Struct("!HHIIHHHHIII")
_TS: Final = Struct("!III")
_U16: Final = Struct("!H")
_U32: Final = Struct("!I")
_U32_PAIR: Final = Struct("!II")
_SACKS: Final = tuple([Struct(f"!I{2 * n}I") for n in range(TCP_NUM_SACKS + 1)])
_TS_SACKS: Final = tuple([Struct(f"!4I{2 * n}I") for n in range(TCP_NUM_SACKS)])
_unpack: Final = _HDR.unpack_from
_pack: Final = _HDR.pack
_pack_ts: Final = _HDR_TS.pack
_unpack_ts: Final = _TS.unpack_from

_NOP_NOP_TS: Final = 0x0101080A  # NOP, NOP, kind 8, length 10
_SACKOK_TS: Final = 0x0402080A  # kind 4, length 2, kind 8, length 10

TcpHeader: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]
TcpFields: TypeAlias = tuple[int, int, int, int, int, int, int, int]


if COMPILED:

    def _load16(b: bytes, o: i64) -> i64:
        high: i64 = b[o]
        low: i64 = b[o + 1]
        return high << 8 | low

    def _load32(b: bytes, o: i64) -> i64:
        b0: i64 = b[o]
        b1: i64 = b[o + 1]
        b2: i64 = b[o + 2]
        b3: i64 = b[o + 3]
        return b0 << 24 | b1 << 16 | b2 << 8 | b3

    def parse(b: bytes, o: int) -> TcpHeader:
        """See below."""
        at: i64 = o
        doff_flags: i64 = _load16(b, at + 12)
        return (
            _load16(b, at), _load16(b, at + 2), _load32(b, at + 4), _load32(b, at + 8), doff_flags >> 10 & 0x3C,
            doff_flags & 0x1FF, _load16(b, at + 14), _load16(b, at + 16), _load16(b, at + 18),
        )  # fmt: skip

    def fields(b: bytes, o: int) -> TcpFields:
        """`fields(b, o) -> (sport, dport, seq, ack, doff_flags, window, check, urg_ptr)`: as `parse`, but with the two
        bytes of the header's length and the flags as they stand."""
        at: i64 = o
        return (
            _load16(b, at), _load16(b, at + 2), _load32(b, at + 4), _load32(b, at + 8), _load16(b, at + 12),
            _load16(b, at + 14), _load16(b, at + 16), _load16(b, at + 18),
        )  # fmt: skip

else:
    fields = _HDR.unpack_from  # type: ignore[assignment]

    def parse(b: bytes, o: int) -> TcpHeader:
        """Unpack a header.

        Args:
            b: the packet.
            o: where the header starts; the caller has checked for TCP_HLEN bytes.

        Returns:
            (sport, dport, seq, ack, doff, flags, window, check, urg_ptr). `doff` is the header's length in bytes, 0 to
            60, and not yet checked to be at least TCP_HLEN or within the packet; `flags` are nine bits, FIN to AE;
            `window` is not scaled.
        """
        sport, dport, seq, ack, doff_flags, window, check, urg_ptr = _unpack(b, o)
        return sport, dport, seq, ack, doff_flags >> 10 & 0x3C, doff_flags & 0x1FF, window, check, urg_ptr


def build(
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    check: int,
    urg_ptr: int,
    options: bytes = b"",
) -> bytes:
    """Build a header.

    Args:
        sport, dport: ports.
        seq, ack: sequence numbers, 0 to 0xFFFFFFFF.
        flags: FIN to AE.
        window: as it stands in the field, scaled already.
        check: the field's value.
        urg_ptr: the field's value.
        options: up to MAX_TCP_OPTION_SPACE bytes, padded to a multiple of 4.

    Returns:
        TCP_HLEN + len(options) bytes.

    Raises:
        struct.error: a value does not fit its field.
    """
    if options:
        doff_flags = TCP_HLEN + len(options) << 10 | flags
        return _pack(sport, dport, seq, ack, doff_flags, window, check, urg_ptr) + options
    return _pack(sport, dport, seq, ack, 0x5000 | flags, window, check, urg_ptr)


def build_ts(
    sport: int, dport: int, seq: int, ack: int, flags: int, window: int, check: int, tsval: int, tsecr: int
) -> bytes:
    """Build the 32-byte header of an ordinary segment: no urgent pointer; NOP, NOP, timestamp (RFC 7323 appendix A).

    Args:
        sport, dport, seq, ack, flags, window, check: as for `build`.
        tsval, tsecr: the timestamp option's values, 0 to 0xFFFFFFFF.

    Returns:
        32 bytes.
    """
    return _pack_ts(sport, dport, seq, ack, 0x8000 | flags, window, check, 0, _NOP_NOP_TS, tsval, tsecr)


if COMPILED:

    def parse_ts(b: bytes, o: int) -> tuple[int, int] | None:
        """See below."""
        at: i64 = o
        if at + 12 > len(b) or _load32(b, at) != _NOP_NOP_TS:
            return None
        return _load32(b, at + 4), _load32(b, at + 8)

else:

    def parse_ts(b: bytes, o: int) -> tuple[int, int] | None:
        """Read the options of an ordinary segment (Linux: `tcp_parse_aligned_timestamp`).

        Args:
            b: the packet.
            o: where the options start; the caller knows from `doff` that 12 bytes of them are there.

        Returns:
            (tsval, tsecr) if the options start with NOP, NOP, timestamp; otherwise, or if `b` ends before, None.
        """
        try:
            head, tsval, tsecr = _unpack_ts(b, o)
        except StructError:
            return None
        return (tsval, tsecr) if head == _NOP_NOP_TS else None


@final
class TcpOptions:
    """The options of one segment, as they came.

    Attributes:
        mss: bytes; 0 if there is none.
        wscale: shift count; -1 if there is none. Up to 255: the caller takes 14 for any above (RFC 7323 section 2.3).
        sack_ok: SACK permitted was there.
        has_ts: a timestamp was there; `tsval` and `tsecr` are 0 if not.
        tsval, tsecr: its values.
        sacks: blocks (left, right) of sequence numbers in the order of the segment, or None.
        fastopen: the cookie; b"" is a request for one; None if there is no valid one.
        fastopen_exp: the cookie came in the experimental option, kind 254.
        md5: 16 bytes of RFC 2385, or None.
        ao: key ids and MAC of RFC 5925, all that follows the length byte, or None.
        accecn: (kind, what follows the length byte) of RFC 9768, or None.
        auth: there was a signature, md5 or ao, of whatever length, or the options are malformed: what
            `parse_auth_options` looks at closer.
    """

    __slots__ = (
        "mss",
        "wscale",
        "sack_ok",
        "has_ts",
        "tsval",
        "tsecr",
        "sacks",
        "fastopen",
        "fastopen_exp",
        "md5",
        "ao",
        "accecn",
        "auth",
    )

    mss: int
    wscale: int
    sack_ok: bool
    has_ts: bool
    tsval: int
    tsecr: int
    sacks: list[tuple[int, int]] | None
    fastopen: bytes | None
    fastopen_exp: bool
    md5: bytes | None
    ao: bytes | None
    accecn: tuple[int, bytes] | None
    auth: bool

    def __init__(self) -> None:
        self.mss = 0
        self.wscale = -1
        self.sack_ok = False
        self.has_ts = False
        self.tsval = 0
        self.tsecr = 0
        self.sacks = None
        self.fastopen = None
        self.fastopen_exp = False
        self.md5 = None
        self.ao = None
        self.accecn = None
        self.auth = False


def parse_options(b: bytes, start: int, end: int) -> TcpOptions:
    """Read a header's options (Linux: `tcp_parse_options`).

    An option whose length is below 2 or reaches past the end stops the reading in silence; what was read before it
    counts. An option of a known kind and the wrong length is passed over, and so is an unknown kind. Of a repeated one
    the last counts. Which options mean anything on a segment without SYN, the caller decides.

    Args:
        b: the packet.
        start: where the options start.
        end: where the header ends.

    Returns:
        The options, never an error.
    """
    opts = TcpOptions()
    end = min(end, len(b))
    at = start
    while at < end:
        kind = b[at]
        if kind == TCPOPT_NOP:
            at += 1
            continue
        if kind == TCPOPT_EOL or at + 2 > end:
            break
        size = b[at + 1]
        after = at + size
        if size < 2 or after > end:
            opts.auth = True
            break
        data = at + 2
        if kind == TCPOPT_TIMESTAMP:
            if size == TCPOLEN_TIMESTAMP:
                opts.has_ts = True
                opts.tsval, opts.tsecr = _U32_PAIR.unpack_from(b, data)
        elif kind == TCPOPT_SACK:
            if size >= 10 and size & 7 == 2:
                unpack = _U32_PAIR.unpack_from
                opts.sacks = [unpack(b, i) for i in range(data, after, TCPOLEN_SACK_PERBLOCK)]
        elif kind == TCPOPT_MSS:
            if size == TCPOLEN_MSS:
                opts.mss = (b[data] << 8 | b[data + 1]) or opts.mss
        elif kind == TCPOPT_WINDOW:
            if size == TCPOLEN_WINDOW:
                opts.wscale = b[data]
        elif kind == TCPOPT_SACK_PERM:
            if size == TCPOLEN_SACK_PERM:
                opts.sack_ok = True
        elif kind == TCPOPT_FASTOPEN:
            _parse_fastopen(opts, b[data:after], False)
        elif kind == TCPOPT_EXP:
            if size >= TCPOLEN_EXP_FASTOPEN_BASE and b[data] << 8 | b[data + 1] == TCPOPT_FASTOPEN_MAGIC:
                _parse_fastopen(opts, b[data + 2 : after], True)
        elif kind == TCPOPT_MD5SIG:
            opts.auth = True
            if size == TCPOLEN_MD5SIG:
                opts.md5 = b[data:after]
        elif kind == TCPOPT_AO:
            opts.auth = True
            if size >= 4:
                opts.ao = b[data:after]
        elif kind in (TCPOPT_ACCECN0, TCPOPT_ACCECN1):
            opts.accecn = (kind, b[data:after])
        at = after
    return opts


def parse_auth_options(b: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Find a header's signature (Linux: `tcp_do_parse_auth_options`).

    Args:
        b: the packet.
        start: where the options start.
        end: where the header ends, not beyond the packet.

    Returns:
        (where the MD5 option starts, where the TCP-AO option starts), 0 for none. None where the header can't be
        trusted: a signature of the wrong length, a second one of either kind, or an option before it that is cut off or
        has no length. The last bytes, too few for a signature, aren't looked at.
    """
    md5 = ao = 0
    at = start
    while end - at >= TCPOLEN_AO_MIN:
        kind = b[at]
        if kind == TCPOPT_EOL:
            break
        if kind == TCPOPT_NOP:
            at += 1
            continue
        size = b[at + 1]
        if size < 2 or at + size > end:
            return None
        if kind == TCPOPT_MD5SIG:
            if size != TCPOLEN_MD5SIG or md5 or ao:
                return None
            md5 = at
        elif kind == TCPOPT_AO:
            if size < TCPOLEN_AO_MIN or md5 or ao:
                return None
            ao = at
        at += size
    return md5, ao


def _parse_fastopen(opts: TcpOptions, cookie: bytes, exp: bool) -> None:
    """Take a cookie (Linux: `tcp_parse_fastopen_option`): empty, or 4 to 16 bytes; an odd length is as if not there."""
    size = len(cookie)
    if size & 1:
        return
    opts.fastopen = cookie if not size or TCP_FASTOPEN_COOKIE_MIN <= size <= TCP_FASTOPEN_COOKIE_MAX else None
    opts.fastopen_exp = exp


def build_syn_options(
    mss: int,
    wscale: int,
    sack_ok: bool,
    ts: tuple[int, int] | None,
    fastopen: bytes | None = None,
    fastopen_exp: bool = False,
    signature: bytes = b"",
) -> bytes:
    """Build the options of a SYN or SYN-ACK in Linux's order (`tcp_options_write`), padded to a multiple of 4.

    Args:
        mss: bytes; 0 for none.
        wscale: shift count; -1 for none.
        sack_ok: whether to permit SACK.
        ts: (tsval, tsecr), or None.
        fastopen: a cookie, b"" to ask for one, None for none.
        fastopen_exp: send the cookie in the experimental option, kind 254.
        signature: the option of a signature, MD5's or TCP-AO's, padded to a multiple of 4; it comes first.

    Returns:
        The options. The caller sees to it that they are at most MAX_TCP_OPTION_SPACE bytes.
    """
    options = signature
    if mss:
        options += _U32.pack(0x02040000 | mss)
    if ts is not None:
        options += _TS.pack(_SACKOK_TS if sack_ok else _NOP_NOP_TS, ts[0], ts[1])
    elif sack_ok:
        options += b"\x01\x01\x04\x02"
    if wscale >= 0:
        options += _U32.pack(0x01030300 | wscale)
    if fastopen is not None:
        if fastopen_exp:
            option = bytes((TCPOPT_EXP, TCPOLEN_EXP_FASTOPEN_BASE + len(fastopen), 0xF9, 0x89)) + fastopen
        else:
            option = bytes((TCPOPT_FASTOPEN, TCPOLEN_FASTOPEN_BASE + len(fastopen))) + fastopen
        options += option + b"\x01" * (-len(option) & 3)
    return options


def build_sack(blocks: Sequence[tuple[int, int]], ts: tuple[int, int] | None) -> bytes:
    """Build the options of an acknowledgement with SACK blocks: timestamp first, as Linux does (RFC 2018 section 3).

    Args:
        blocks: (left, right) sequence numbers, the latest first; at most 4, or 3 with a timestamp.
        ts: (tsval, tsecr), or None.

    Returns:
        The options, a multiple of 4 bytes.

    Raises:
        ValueError: more blocks than fit.
    """
    count = len(blocks)
    if count > (TCP_NUM_SACKS if ts is None else TCP_NUM_SACKS - 1):
        raise ValueError(f"{count} SACK blocks do not fit: at most 4, or 3 with a timestamp")
    if not count:
        return b"" if ts is None else _TS.pack(_NOP_NOP_TS, ts[0], ts[1])
    edges: list[int] = []
    for block in blocks:
        edges += block
    head = 0x01010502 + 8 * count  # NOP, NOP, kind 5, length
    if ts is None:
        return _SACKS[count].pack(head, *edges)
    return _TS_SACKS[count].pack(_NOP_NOP_TS, ts[0], ts[1], head, *edges)
