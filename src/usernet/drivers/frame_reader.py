"""Receiving from a descriptor that gives a plain frame with each read: one by one, and bulk data by a ring.

Frames of one flow that arrive one after the other are alike but for a few numbers, and GRO takes such a run as what it
is (net/offload.Train). So while there is one, what comes next is read into a ring (skbuff/rx_ring.py), whatever it is,
and taken out by runs; what is in no run becomes a packet as ever. Nothing changes its place, neither within a flow nor
between flows.

A ring is laid out for frames of one length. It is used where a poll has found a long run of them, and for as long as
most of what it is filled with are runs; so traffic that is mixed has nothing to do with it.
"""

from __future__ import annotations

import errno
import os
from io import FileIO
from typing import Any, Final, final

from usernet.net.offload import Train
from usernet.netdevice.napi import NicNapi
from usernet.skbuff.rx_ring import RxRing
from usernet.skbuff.skbuff import SKBuff

WORTHWHILE: Final = 8
"""Frames of one run, read one by one, after which the ring is used."""

ALONE: Final = 8
"""Polls after one that found a single packet that take one for all there is, before the next looks for more."""

_read: Final = os.read


@final
class FrameReader:
    """How one device receives. The descriptor is the driver's, who also closes it."""

    __slots__ = ("_alone", "_fd", "_largest", "_length", "_payload", "_readinto", "_ring", "_ringing")

    def __init__(self, fd: int, largest: int) -> None:
        """fd: nonblocking, each read of it a frame. largest: bytes of the longest that there may be."""
        self._fd = fd
        self._largest = largest
        # In a buffer that is there: no more than a read, and None instead of an exception where there is nothing.
        self._readinto = FileIO(fd, closefd=False).readinto
        self._ring: RxRing | None = None
        self._ringing = False
        self._length = 0
        self._payload = 0
        self._alone = 0

    def poll(self, dev: Any, napi: NicNapi, budget: int) -> int:
        """Receive up to `budget` frames, each for `napi` or its train; returns how many. dev: whose counters they are,
        and who is polled again where something is left."""
        # Where packets come one at a time, a second read finds nothing. Whoever watches the descriptor hears again of
        # what is left there.
        alone = self._alone if dev.net.loop.trampoline is not None else 0
        done = 0
        code = 0
        while done < budget and not code:
            ring = self._ring
            if self._ringing and ring is not None:
                # Something is left in it only where a packet raised an exception on its way up.
                if ring.at == ring.count and ring.other is None:
                    code = ring.fill(self._readinto, budget - done)
                done += self._empty(ring, napi)
                continue
            try:
                frame = _read(self._fd, self._largest)
            except OSError as problem:
                code = problem.errno or errno.EIO
                continue
            # A super-segment, merged by another on its way, is as much work as several packets.
            done += 1 + (len(frame) >> 15)
            train = napi.train
            if train is None or not train.take(frame):
                if alone and done == 1:
                    self._alone = alone - 1
                    napi.receive_alone(SKBuff(frame))
                    return done
                napi.receive(SKBuff(frame))
            elif train.count == WORTHWHILE:
                self._consider(train)
        if code:
            if done:
                self._alone = ALONE if done == 1 else 0
            if code != errno.EAGAIN:
                dev.statistics.rx_errors += 1
        return done

    def _consider(self, train: Train) -> None:
        """Read the next frames by the ring, where it is one for such as the train's.

        Where it is not, another is made when they are the second of their kind in a row: it costs as much as to receive
        some thirty frames.
        """
        length = train.length
        payload = train.payload
        if not 0 < length <= self._largest:
            return
        ring = self._ring
        if ring is None or ring.length != length or ring.payload != payload:
            if self._length != length or self._payload != payload:
                self._length = length
                self._payload = payload
                return
            self._ring = RxRing(length, payload, self._largest)
        self._ringing = True

    def _empty(self, ring: RxRing, napi: NicNapi) -> int:
        """Give `napi` what is in the ring, and decide whether to fill it again; returns how many frames there were."""
        start = ring.at
        in_runs = 0
        while ring.at < ring.count:
            train = napi.train
            taken = train.take_run(ring) if train is not None else 0
            if taken:
                ring.at += taken
                in_runs += taken
            else:
                frame = ring.frame(ring.at)
                ring.at += 1
                napi.receive(SKBuff(frame))
                if ring.at < ring.count:
                    napi.expect()
        done = ring.count - start
        other = ring.other
        if other is not None:
            ring.other = None
            done += 1
            train = napi.train
            if train is None or not train.take(other):
                napi.receive(SKBuff(other))
        if done:
            self._ringing = in_runs * 2 >= done
        return done
