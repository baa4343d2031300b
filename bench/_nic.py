"""A NIC without a wire, for benchmarks of the data path alone: what it receives is made beforehand."""

from __future__ import annotations

from collections import deque

from usernet.drivers.vnet_hdr import receive_header
from usernet.netdevice.device import NetDevice
from usernet.netdevice.driver import Driver
from usernet.skbuff.skbuff import SKBuff


class MemoryNic(Driver):
    """`frames` are what it receives next, each behind a virtio-net header of `vnet_hdr` bytes (0 for none). What
    becomes of what is sent is for `xmit` to say."""

    vnet_hdr = 0

    def __init__(self) -> None:
        self.dev: NetDevice | None = None
        self.frames: deque[bytes] = deque()

    def open(self, dev: NetDevice) -> None:
        self.dev = dev

    def stop(self) -> None:
        self.dev = None

    def poll(self, budget: int) -> int:
        assert self.dev is not None
        napi = self.dev.napi
        frames = self.frames
        offset = self.vnet_hdr
        done = 0
        while frames and done < budget:
            frame = frames.popleft()
            done += 1
            train = napi.train
            if train is not None and train.take(frame):
                continue
            skb = SKBuff(frame, offset)
            if offset:
                receive_header(skb, 0)
            napi.receive(skb)
        return done
