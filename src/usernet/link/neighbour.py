"""Neighbours: the link addresses of the hosts on a link, and whether they are still there.

The last step of the network layer: a packet is given to `Neighbour.output`, which puts the link header in front and
hands it to the device, or holds it until the address is known. Neighbour unreachability detection follows RFC 4861
section 7.3, which Linux uses for IPv4 as well: what was confirmed is REACHABLE for a while, then STALE; the first
packet after that gives upper layers a few seconds to confirm it (DELAY), then it is asked directly (PROBE), and FAILED
when it doesn't answer. Protocols plug in as `NeighOps` (link/arp.py). Linux: net/core/neighbour.c.

    NONE → INCOMPLETE → REACHABLE → STALE → DELAY → PROBE → FAILED           NOARP, PERMANENT: no detection
                ↓            ↑________________↓_______|
              FAILED         confirmed

`hh` is the whole link header while the neighbour is connected (REACHABLE, PERMANENT, NOARP), else None, so that the
common case is one test and one `push_header`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from usernet.core.timer import Timer
from usernet.link.neigh_parms import MILLISECOND, SECOND, NeighParms
from usernet.netdevice.device import NetDevice
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.wire import ethernet

if TYPE_CHECKING:
    from usernet.link.neigh_table import NeighbourTable

NUD_NONE: Final = 0x00
NUD_INCOMPLETE: Final = 0x01
NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_DELAY: Final = 0x08
NUD_PROBE: Final = 0x10
NUD_FAILED: Final = 0x20
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80

NUD_CONNECTED: Final = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE
NUD_VALID: Final = NUD_CONNECTED | NUD_PROBE | NUD_STALE | NUD_DELAY
NUD_IN_TIMER: Final = NUD_INCOMPLETE | NUD_REACHABLE | NUD_DELAY | NUD_PROBE

NUD_NAMES: Final = {
    NUD_NONE: "NONE", NUD_INCOMPLETE: "INCOMPLETE", NUD_REACHABLE: "REACHABLE", NUD_STALE: "STALE",
    NUD_DELAY: "DELAY", NUD_PROBE: "PROBE", NUD_FAILED: "FAILED", NUD_NOARP: "NOARP", NUD_PERMANENT: "PERMANENT",
}  # fmt: skip

NEIGH_UPDATE_F_OVERRIDE: Final = 0x1
NEIGH_UPDATE_F_WEAK_OVERRIDE: Final = 0x2
NEIGH_UPDATE_F_ADMIN: Final = 0x80000000

_SHORTEST: Final = 10 * MILLISECOND
"""No timer of a neighbour is shorter (Linux: HZ/100)."""


class NeighOps:
    """What a protocol of resolution does. `ethertype` is the network protocol's, for the link header."""

    ethertype: int = 0

    def key(self, dev: NetDevice, addr: bytes) -> bytes:
        """By what address the neighbour `addr` is filed on `dev`."""
        return addr

    def constructor(self, neigh: Neighbour) -> None:
        """A neighbour was made: call its `needs_no_resolution` where that is so."""
        raise NotImplementedError(f"{type(self).__name__} must define constructor()")

    def solicit(self, neigh: Neighbour, skb: SKBuff | None) -> None:
        """Ask for the neighbour's link address; `skb` is a packet that waits for it."""
        raise NotImplementedError(f"{type(self).__name__} must define solicit()")

    def error_report(self, neigh: Neighbour, skb: SKBuff) -> None:
        """`skb` can't be sent, for the neighbour doesn't answer: tell its sender, and drop it."""
        raise NotImplementedError(f"{type(self).__name__} must define error_report()")

    def is_multicast(self, key: bytes) -> bool:
        return False


@final
class Neighbour:
    """One neighbour: `addr` (packed, network layer) on `dev`, link address `ha`, `state` NUD_*, `hh` (see above).

    used, confirmed, updated: times (ns). probes: sent in the current state. dead: no longer in the table.
    """

    __slots__ = (
        "_queue", "_timer", "addr", "confirmed", "dead", "dev", "ha", "hh", "parms", "probes", "queue_bytes", "state",
        "table", "updated", "used",
    )  # fmt: skip

    def __init__(self, table: NeighbourTable, dev: NetDevice, addr: bytes, parms: NeighParms) -> None:
        now = table.net.loop.now
        self.table = table
        self.dev = dev
        self.addr = addr
        self.parms = parms
        self.ha: bytes = b""
        self.hh: bytes | None = None
        self.state: int = NUD_NONE
        self.used: int = now
        self.updated: int = now
        self.confirmed: int = now - (parms.base_reachable_time_ms << 1) * MILLISECOND
        self.probes: int = 0
        self.dead: bool = False
        self._queue: deque[SKBuff] | None = None
        self.queue_bytes: int = 0
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        from ipaddress import ip_address

        addr = str(ip_address(self.addr))
        return f"<Neighbour {addr} dev {self.dev.name} lladdr {self.ha.hex(':')} {NUD_NAMES[self.state]}>"

    # -- sending

    def output(self, skb: SKBuff) -> int:
        """Send a packet to this neighbour: `data` at its network header. Returns NET_XMIT_*; 0 also where it waits for
        the address (Linux: neigh_output)."""
        hh = self.hh
        if hh is None:
            return self._resolve_output(skb)
        if hh:
            skb.push_header(hh)
        return self.dev.queue_xmit(skb)

    def _resolve_output(self, skb: SKBuff) -> int:
        """Linux: neigh_resolve_output."""
        if self.event_send(skb):
            return 0
        if self.dev.hard_header_len:
            skb.push_header(ethernet.build(self.ha, self.dev.mac, self.table.ops.ethertype))
        return self.dev.queue_xmit(skb)

    def event_send(self, skb: SKBuff | None) -> bool:
        """Something is to be sent: start resolution or detection (Linux: neigh_event_send).

        True where the packet is taken care of (it waits, or was dropped); False where it can be sent now.
        """
        state = self.state
        now = self.table.net.loop.now
        self.used = now
        if state & (NUD_CONNECTED | NUD_DELAY | NUD_PROBE):
            return False
        if self.dead:
            if state & NUD_STALE:
                return False
            if skb is not None:
                skb.drop(DropReason.NEIGH_DEAD, self.table.net.drops)
            return True
        if state & NUD_STALE:
            self._set_state(NUD_DELAY)
            self._arm(now + self.parms.delay_first_probe_time * SECOND)
            return False
        ask = False
        if not state & NUD_INCOMPLETE:
            if not self.parms.mcast_solicit + self.parms.app_solicit:
                self._set_state(NUD_FAILED)
                if skb is not None:
                    skb.drop(DropReason.NEIGH_FAILED, self.table.net.drops)
                return True
            # An unknown address can only be asked for by multicast, so the unicast probes count as done.
            self.probes = self.parms.ucast_solicit
            self._set_state(NUD_INCOMPLETE)
            self._arm(now + self.parms.retrans_time_ms * MILLISECOND)
            ask = True
        if skb is not None:
            self._hold(skb)
        if ask:
            self._probe()
        return True

    def _hold(self, skb: SKBuff) -> None:
        """Let `skb` wait for the address; the oldest make room (RFC 1122 section 2.3.2.2: at least one is kept)."""
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        limit = self.parms.unres_qlen_bytes
        while queue and self.queue_bytes + skb.truesize > limit:
            oldest = queue.popleft()
            self.queue_bytes -= oldest.truesize
            self.table.unres_discards += 1
            oldest.drop(DropReason.NEIGH_QUEUEFULL, self.table.net.drops)
        queue.append(skb)
        self.queue_bytes += skb.truesize

    @property
    def waiting(self) -> int:
        """Packets that wait for the address."""
        return len(self._queue) if self._queue is not None else 0

    def confirm(self) -> None:
        """An upper layer had an answer from it (Linux: neigh_confirm)."""
        self.confirmed = self.table.net.loop.now

    # -- what is learned

    def needs_no_resolution(self, ha: bytes) -> None:
        """Its link address follows from its address or its device (Linux: NUD_NOARP)."""
        self.ha = ha
        self._set_state(NUD_NOARP)

    def update(self, ha: bytes | None, new: int, flags: int = 0) -> bool:
        """A packet, or an administrator, told of the neighbour (Linux: neigh_update).

        ha: its link address, None where none was given. new: the state to go to. flags: NEIGH_UPDATE_F_*.
        Returns False where it was not believed.
        """
        old = self.state
        if self.dead or (not flags & NEIGH_UPDATE_F_ADMIN and old & (NUD_NOARP | NUD_PERMANENT)):
            return False
        if not new & NUD_VALID:
            self._set_state(new)
            self._cancel()
            if old & (NUD_INCOMPLETE | NUD_PROBE) and new & NUD_FAILED:
                self._invalidate()
            return True
        if not self.dev.hard_header_len:
            ha = self.ha
        elif ha is None:
            if not old & NUD_VALID:
                return False
            ha = self.ha
        now = self.table.net.loop.now
        if new & NUD_CONNECTED:
            self.confirmed = now
        changed = ha != self.ha or not old & NUD_VALID
        if old & NUD_VALID:
            if ha != self.ha and not flags & NEIGH_UPDATE_F_OVERRIDE:
                if not (flags & NEIGH_UPDATE_F_WEAK_OVERRIDE and old & NUD_CONNECTED):
                    return True
                ha = self.ha
                changed = False
                new = NUD_STALE
            elif ha == self.ha and new == NUD_STALE and not flags & NEIGH_UPDATE_F_ADMIN:
                new = old
        if changed:
            self.ha = ha
            self.updated = now
            if not new & NUD_CONNECTED:
                self.confirmed = now - (self.parms.base_reachable_time_ms << 1) * MILLISECOND
        if new != old:
            if new & NUD_PROBE:
                self.probes = 0
            self._set_state(new)
            if new & NUD_REACHABLE:
                self._arm(now + self.table.reachable_time(self.parms))
            elif new & NUD_IN_TIMER:
                self._arm(now)
            else:
                self._cancel()
        elif changed:
            self._set_state(new)
        if not old & NUD_VALID:
            self._release_queue()
        return True

    def _release_queue(self) -> None:
        """The address is known: send what waited, in order."""
        queue = self._queue
        while queue and self.state & NUD_VALID:
            skb = queue.popleft()
            self.queue_bytes -= skb.truesize
            self.output(skb)
        self._queue = None
        self.queue_bytes = 0

    def _set_state(self, state: int) -> None:
        old = self.state
        if state != old:
            self.updated = self.table.net.loop.now
        self.state = state
        if state & NUD_CONNECTED:
            dev = self.dev
            self.hh = ethernet.build(self.ha, dev.mac, self.table.ops.ethertype) if dev.hard_header_len else b""
        else:
            self.hh = None
        if self.table.trace.probes:
            self.table.trace.fire(self, old, state)
        if self.table.on_change is not None:
            self.table.on_change(self, True)

    # -- time

    def _arm(self, deadline: int) -> None:
        timer = self._timer
        if timer is None:
            timer = self._timer = Timer(self.table.net.loop.timers, self._expired)
        timer.mod(max(deadline, self.table.net.loop.now + _SHORTEST))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expired(self, now: int) -> None:
        """Linux: neigh_timer_handler."""
        state = self.state
        parms = self.parms
        retrans = parms.retrans_time_ms * MILLISECOND
        delay = parms.delay_first_probe_time * SECOND
        deadline = 0
        if state & NUD_REACHABLE:
            reachable = self.confirmed + self.table.reachable_time(parms)
            if now < reachable:
                deadline = reachable
            elif now <= self.used + delay:
                self._set_state(NUD_DELAY)
                deadline = now + delay
            else:
                self._set_state(NUD_STALE)
        elif state & NUD_DELAY:
            if now <= self.confirmed + delay:
                self._set_state(NUD_REACHABLE)
                deadline = self.confirmed + self.table.reachable_time(parms)
            else:
                self.probes = 0
                self._set_state(NUD_PROBE)
                deadline = now + retrans
        elif state & (NUD_PROBE | NUD_INCOMPLETE):
            deadline = now + retrans
        if self.state & (NUD_INCOMPLETE | NUD_PROBE):
            if self.probes >= self._max_probes():
                self._set_state(NUD_FAILED)
                self._invalidate()
                return
            self._arm(deadline)
            self._probe()
        elif deadline:
            self._arm(deadline)

    def _max_probes(self) -> int:
        parms = self.parms
        multicast = parms.mcast_resolicit if self.state & NUD_PROBE else parms.mcast_solicit
        return parms.ucast_solicit + parms.app_solicit + multicast

    def _probe(self) -> None:
        queue = self._queue
        self.table.ops.solicit(self, queue[-1] if queue else None)
        self.probes += 1

    def _invalidate(self) -> None:
        """It failed: tell the senders of what waited (Linux: neigh_invalidate)."""
        self.table.res_failed += 1
        queue, self._queue = self._queue, None
        self.queue_bytes = 0
        while queue:
            skb = queue.popleft()
            if self.state == NUD_FAILED:
                self.table.ops.error_report(self, skb)
            else:
                # A report started resolution anew.
                skb.drop(DropReason.NEIGH_FAILED, self.table.net.drops)

    def kill(self) -> None:
        """It leaves the table: no timer, nothing waits, and nobody sends by a header they still hold."""
        self.dead = True
        self.hh = None
        if self._timer is not None:
            self._timer.delete()
            self._timer = None
        queue, self._queue = self._queue, None
        self.queue_bytes = 0
        while queue:
            queue.popleft().drop(DropReason.NEIGH_DEAD, self.table.net.drops)
