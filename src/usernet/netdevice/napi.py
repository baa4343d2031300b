"""The polling of a network device: what a driver gives its packets to (Linux: struct napi_struct, napi_gro_receive)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from usernet.core.native import mypyc_attr
from usernet.core.softirq import Napi
from usernet.net.offload import Train
from usernet.netdevice.driver import NETIF_F_GRO
from usernet.netdevice.gro import Gro
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.netdevice.device import NetDevice


@mypyc_attr(allow_interpreted_subclasses=True)
class NicNapi(Napi):
    """A Napi as a driver knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.train: Train | None = None
        """What a driver may append the next frame to, before it makes a packet of it."""

    def receive(self, skb: SKBuff) -> None:
        """A packet from the driver, `data` at its link header (at the network header where there is none)."""
        raise NotImplementedError(f"{type(self).__name__} must define receive()")

    def receive_alone(self, skb: SKBuff) -> None:
        """As `receive`, for the first packet of a poll that gives no other: there is nothing to merge it with."""
        self.receive(skb)

    def expect(self) -> None:
        """More like the packet just received is at hand, likely the next of its flow: a train from the first packet on,
        where there would be one from the second."""


@final
class DeviceNapi(NicNapi):
    """The polling of one device, with generic receive offload where the device has it on."""

    def __init__(self, dev: NetDevice) -> None:
        super().__init__()
        self.dev = dev
        self.gro = Gro(dev.net)
        self.missed: int = 0
        """How many readers in a row have looked here before they slept, and found nothing."""

    def poll(self, budget: int) -> int:
        dev = self.dev
        if not dev.up:
            return 0  # it went down after it was scheduled
        done = dev.driver.poll(budget)
        gro = self.gro
        train = self.train
        if train is not None and train.length and done >= budget and len(gro.held) == 1:
            # It stopped in the middle of a run, goes on with it right away, and holds nothing else: what has come of
            # it waits for the rest (Linux: napi_complete_done, likewise only where nothing is left).
            return done
        if gro.held or gro.acks or train is not None:
            for skb in self.flush():
                dev.deliver(skb)
        return done

    def flush(self) -> list[SKBuff]:
        """All that is held, to go up."""
        self.end_train()
        return self.gro.flush()

    def end_train(self) -> None:
        """Append nothing to the train any more."""
        train = self.train
        if train is not None:
            self.train = None
            train.settle(self.dev.statistics, self.dev.hard_header_len)

    def expect(self) -> None:
        if self.train is None:
            self.train = self.gro.first_train()

    def receive(self, skb: SKBuff) -> None:
        """A packet from the driver, `data` at its link header (at the network header where there is none)."""
        dev = self.dev
        if self.train is not None:
            self.end_train()
        if not dev.features & NETIF_F_GRO:
            if self.gro.held:
                # From before GRO was turned off.
                for ready in self.gro.flush():
                    dev.deliver(ready)
            dev.receive(skb)
        elif dev.prepare(skb):
            dev.count(skb)
            gro = self.gro
            for ready in gro.receive(skb):
                dev.deliver(ready)
            self.train = gro.train
        else:
            skb.drop(DropReason.PKT_TOO_SMALL, dev.net.drops)

    def receive_alone(self, skb: SKBuff) -> None:
        if self.gro.held:
            self.receive(skb)
        else:
            self.dev.receive(skb)
