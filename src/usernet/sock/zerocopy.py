"""MSG_ZEROCOPY: telling the application when the memory it sent from is its own again (Linux: msg_zerocopy_alloc and
its kin in net/core/skbuff.c; Documentation/networking/msg_zerocopy.rst).

What an application gives as `bytes` is referenced and what it could change is copied (core/iov.py), whether it asks for
MSG_ZEROCOPY or not: its memory is free as soon as the call returns. What MSG_ZEROCOPY adds is the report. Each call has
a number, counted from 0 for each socket; when nothing refers to its data any more, an entry in the error queue says so.
Calls that follow one another share an entry, which then has a range of numbers, from ee_info to ee_data.

SO_EE_CODE_ZEROCOPY_COPIED in an entry says that there was no gain in it: data was copied on its way, or went to this
machine itself, or to a device that takes no fragments.

A `UbufInfo` stands for one call, or several in a row whose data lies in one packet. Those who hold it, the call itself
and each queued packet with its data, take a reference; the last `put` makes the report. What is not yet read of it is
charged to the socket's option memory, so net.core.optmem_max bounds how many there are: one more is ENOBUFS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import SKB_OVERHEAD, SKBuff
from usernet.sock.errqueue import SO_EE_ORIGIN_ZEROCOPY, ExtendedError
from usernet.sock.sock import SOCK_STREAM

if TYPE_CHECKING:
    from usernet.sock.sock import Sock

SO_EE_CODE_ZEROCOPY_COPIED: Final = 1
UARG_TRUESIZE: Final = 832
"""Bytes that Linux charges for a report: a `struct sk_buff` and the smallest head."""
BYTE_LIMIT: Final = 1 << 19
"""Bytes of calls in a row that share one report."""
LEN_LIMIT: Final = 65534
PAGE_SIZE: Final = 4096
_KEY_MASK: Final = 0xFFFFFFFF


@final
class UbufInfo:
    """The report of `len` calls from number `id` on, which sent `bytelen` bytes (Linux: `struct ubuf_info_msgzc`).

    zerocopy: whether no copy was made so far. refs: who holds it.
    """

    __slots__ = ("bytelen", "id", "len", "refs", "sk", "zerocopy")

    def __init__(self, sk: Sock, size: int) -> None:
        self.sk = sk
        self.id = sk.zckey
        self.len = 1
        self.bytelen = size
        self.zerocopy = True
        self.refs = 1
        sk.zckey = (sk.zckey + 1) & _KEY_MASK
        sk.omem_alloc += UARG_TRUESIZE

    def get(self) -> None:
        """One more holds it."""
        self.refs += 1

    def put(self) -> None:
        """One less; the last one's going is the report (Linux: msg_zerocopy_complete)."""
        self.refs -= 1
        if not self.refs:
            _complete(self)

    def abort(self) -> None:
        """The call failed: it has no number, and makes no report (Linux: msg_zerocopy_put_abort)."""
        self.sk.zckey = (self.sk.zckey - 1) & _KEY_MASK
        self.len -= 1
        self.put()


def zerocopy_realloc(sk: Sock, size: int, held: UbufInfo | None) -> UbufInfo | None:
    """The report for a call that sends `size` bytes: `held`, that of the packet its data is appended to, or a new one
    (Linux: msg_zerocopy_realloc). None where there is no memory for it: the call is to fail with ENOBUFS."""
    if held is not None:
        stream = sk.sock_type == SOCK_STREAM
        bytelen = held.bytelen + size
        if held.len == LEN_LIMIT or bytelen > BYTE_LIMIT:
            if not stream:
                return None
        elif (held.id + held.len) & _KEY_MASK == sk.zckey:
            held.len += 1
            held.bytelen = bytelen
            sk.zckey = (sk.zckey + 1) & _KEY_MASK
            # A datagram has the reference already, of the call that began it.
            if stream:
                held.refs += 1
            return held
    if sk.omem_alloc + SKB_OVERHEAD > sk.settings.optmem_max:
        return None
    return UbufInfo(sk, size)


def page_size(size: int) -> int:
    """The memory that `size` bytes keep from being used: whole pages."""
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def _complete(uarg: UbufInfo) -> None:
    """Make the report: a new entry, or a longer range in the last one (Linux: __msg_zerocopy_callback)."""
    sk = uarg.sk
    if not uarg.len or sk.dead:
        sk.omem_alloc -= UARG_TRUESIZE
        return
    high = (uarg.id + uarg.len - 1) & _KEY_MASK
    queue = sk.error_queue
    if queue is None:
        queue = sk.error_queue = SKBuffQueue()
    tail = queue.last
    held: ExtendedError | None = tail.cb if tail is not None else None
    if held is not None and held.origin == SO_EE_ORIGIN_ZEROCOPY and (held.data + 1) & _KEY_MASK == uarg.id:
        held.data = high
        sk.omem_alloc -= UARG_TRUESIZE
    else:
        code = 0 if uarg.zerocopy else SO_EE_CODE_ZEROCOPY_COPIED
        entry = SKBuff()
        entry.truesize = UARG_TRUESIZE
        entry.cb = ExtendedError(0, SO_EE_ORIGIN_ZEROCOPY, 0, code, uarg.id, high, None, None)
        entry.sk = sk
        entry.destructor = _free
        queue.append(entry)
    sk.error_report()


def _free(skb: SKBuff) -> None:
    skb.sk.omem_alloc -= skb.truesize
