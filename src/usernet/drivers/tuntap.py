"""TUN and TAP: the stack on a network interface of the host's kernel (Linux: drivers/net/tun.c, tuntap.rst).

The kernel holds one end, an ordinary interface, and the stack the other. A TAP carries Ethernet frames, a TUN bare IP
packets. One read(2) is one packet and one writev(2) is one packet. With IFF_VNET_HDR each has a virtio-net header
before it, and then "a packet" may be a super-segment of 64 KiB with its checksum unfilled, both ways: one system call
where there would be forty-five, and no checksum at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, final

from usernet.core.errors import check_type, error
from usernet.drivers import host
from usernet.drivers.frame_reader import ALONE, FrameReader
from usernet.drivers.host_napi import GRO_FLUSH_TIMEOUT, HostNapi
from usernet.drivers.vnet_hdr import receive_header, transmit_header
from usernet.netdevice.driver import (
    ARPHRD_ETHER,
    ARPHRD_NONE,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    Driver,
)
from usernet.netdevice.napi import NicNapi
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import GSO_LEGACY_MAX_SIZE, SKB_GSO_UDP_L4, SKBuff
from usernet.wire.virtio_net import VIRTIO_NET_HDR_LEN

TUN_DEVICE: Final = "/dev/net/tun"

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETVNETLE: Final = 0x400454DC
IFF_TUN: Final = 0x0001
IFF_TAP: Final = 0x0002
IFF_NAPI: Final = 0x0010
IFF_MULTI_QUEUE: Final = 0x0100
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

MAX_QUEUES: Final = 256
"""Queues that an interface may have (MAX_TAP_QUEUES)."""

SIOCGIFMTU: Final = 0x8921
IFNAMSIZ: Final = 16

READ_SIZE: Final = 65536 + 64
"""Bytes for one read: the largest super-segment, its link header with a VLAN tag, and the virtio-net header."""

MAX_STALE: Final = 4096
"""Packets thrown away when the device is opened: what the kernel queued while nobody listened, and no more."""

BIG_TCP_SIZE: Final = 15 * 32768
"""Bytes of a super-segment written to a host that knows BIG TCP over IPv4. The kernel holds it in 17 pieces at most
(MAX_SKB_FRAGS), of eight contiguous pages each, and what is left at the end in up to three smaller ones."""

BIG_TCP_SINCE: Final = (6, 3)
"""The version of Linux that takes an IPv4 super-segment above 64 KiB, its total length 0 (iph_totlen)."""

PLAIN_SIZE: Final = 262144
"""Bytes of a super-segment without offload, of which the stack makes the frames: TCP's work is done once for it, and
frames are written in a row, which the host merges better. Twice as many gained nothing, half as many lost little."""

LOOK: Final = 16
"""Polls after which it is looked at how much is moved."""

IOV_MAX: Final = 1024
"""Parts that one writev(2) takes; a packet of more fragments is joined first."""

_IFREQ: Final = Struct("16sH22x")
_IFREQ_INT: Final = Struct("16si20x")

_read: Final = os.read
_write: Final = os.write
_writev: Final = os.writev


class TunTap(Driver):
    """What Tap and Tun have in common. Constructing one makes, or attaches to, the kernel's interface."""

    _mode: int = IFF_TAP
    _reader: FrameReader | None = None
    queue_length = 1000
    min_mtu = 68
    max_mtu = 65521

    def __init__(
        self,
        name: str = "",
        *,
        offload: bool = True,
        address: str | Sequence[str] | None = None,
        up: bool | None = None,
        mtu: int = 0,
        routes: Sequence[str] = (),
        netns: str | None = None,
        persist: bool = False,
        queues: int = 1,
        gro: bool = True,
        threaded: bool | None = None,
    ) -> None:
        """Make the host's interface `name`, or attach to it where it is there already (`ip tuntap add`).

        name: of the kernel's interface; "" has the kernel choose, and `name` tells. offload: with virtio-net headers:
        64 KiB super-segments and unfilled checksums both ways. persist: the kernel keeps the interface when this end
        is closed. queues: how many the interface has, for as many processes (usernet/multiqueue.py); the kernel spreads
        flows over them by their hash, and each process keeps one (`keep`). netns: the host's network namespace to make
        it in: a name that `ip netns` knows, or a path. gro: without `offload`, the host merges the TCP segments that it
        is sent (IFF_NAPI, gro_flush_timeout) where it lets us have it so: bulk data costs half of what it does
        otherwise, a packet that can't be merged about a microsecond more. threaded: the host does its work on what it
        is sent in a thread of its own, on another core, where it lets us have it so; None: while much is moved, and the
        interface has one queue (usernet/drivers/host_napi.py).

        To set up the host's side (by pyroute2): address: `"10.77.0.1/24"`, or several. up: bring it up; None: where
        anything else of it is asked for. mtu: bytes, of both sides; 0: what the interface has. routes: what the host
        is to send here: `"10.78.0.0/16"`, `"default"`, `"10.78.0.0/16 via 10.77.0.2"`.

        Raises ValueError for a name, address or route that is none; OSError: ENOENT without /dev/net/tun, EPERM
        without the privilege (CAP_NET_ADMIN, or an interface made for this user), EBUSY where another program is
        attached, EINVAL where the interface is of the other kind; ModuleNotFoundError without pyroute2 where it is
        needed.
        """
        check_type("name", name, str, "a str")
        encoded = name.encode()
        if len(encoded) >= IFNAMSIZ or "/" in name or any(char.isspace() for char in name) or name in (".", ".."):
            raise ValueError(f"name: expected at most {IFNAMSIZ - 1} characters, no slash, no space, not {name!r}")
        if mtu and not self.min_mtu <= mtu <= self.max_mtu:
            raise ValueError(f"mtu: expected {self.min_mtu} to {self.max_mtu}, not {mtu}")
        if not 1 <= queues <= MAX_QUEUES:
            raise ValueError(f"queues: expected 1 to {MAX_QUEUES}, not {queues}")
        for text in [address] if isinstance(address, str) else address or ():
            host.parse_interface(text)
        for text in routes:
            host.parse_route(text)
        self._dev: Any = None
        self._napi: NicNapi | None = None
        self._fd: int = -1
        self._more: list[int] = []
        """The descriptors of the other queues, until one is kept."""
        self.queues: int = queues
        self._alone: int = 0
        """How many polls may still end with the first packet."""
        self._gro: bool = gro and not offload
        self._threaded: bool | None = False if threaded is None and queues > 1 else threaded
        self._host: HostNapi | None = None
        self._until_look: int = LOOK
        self._vnet: bool = offload
        if not offload:
            self.plain_frames = True
            self.tso_max_size = PLAIN_SIZE
        self.name: str = name
        self.hw_features = NETIF_F_SG
        with host.entered(netns):
            self._fd = open_device(TUN_DEVICE)
            try:
                self._attach_queues(encoded)
                if persist:
                    fcntl.ioctl(self._fd, TUNSETPERSIST, 1)
                self.mtu = mtu or self._kernel_mtu()
            except BaseException:
                self.close()
                raise
        if up or address is not None or mtu or routes:
            try:
                host.configure(self.name, address, up=up is not False, mtu=mtu, routes=routes, netns=netns)
            except BaseException:
                self.close()
                raise

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else "offload" if self._vnet else "plain"
        return f"<{type(self).__name__} {self.name} {state}>"

    def _flags(self, polled: bool) -> int:
        multi = IFF_MULTI_QUEUE if self.queues > 1 else 0
        napi = IFF_NAPI if polled else 0
        return self._mode | IFF_NO_PI | multi | napi | (IFF_VNET_HDR if self._vnet else 0)

    def _attach_queues(self, encoded: bytes) -> None:
        """Attach, with the host polling the interface as is wanted, where that can be had."""
        root = -1
        polled = self._gro or self._threaded is not False
        if polled:
            try:
                root = host.sysfs()
            except OSError:
                polled = False
            else:
                # The flag comes with the interface, before there is one to try it on.
                polled = os.access(f"class/net/lo/{GRO_FLUSH_TIMEOUT}", os.W_OK, dir_fd=root)
        try:
            self._attach(encoded, self._flags(polled))
            for _ in range(1, self.queues):
                self._more.append(open_device(TUN_DEVICE))
                attach(self._more[-1], self.name.encode(), self._flags(polled), type(self).__name__)
            if polled:
                directory = os.open(f"class/net/{self.name}", os.O_PATH | os.O_CLOEXEC, dir_fd=root)
                self._host = HostNapi(directory, self._gro, self._threaded)
                self._host.start()
        finally:
            if root >= 0:
                os.close(root)

    def _attach(self, encoded: bytes, flags: int) -> None:
        self.name = attach(self._fd, encoded, flags, type(self).__name__)
        if not self._vnet:
            # An interface made persistent by another program may still have its offloads on.
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, 0)
            return
        fcntl.ioctl(self._fd, TUNSETVNETHDRSZ, VIRTIO_NET_HDR_LEN.to_bytes(4, "little"))
        fcntl.ioctl(self._fd, TUNSETVNETLE, (1).to_bytes(4, "little"))
        self.hw_features |= NETIF_F_HW_CSUM | NETIF_F_RXCSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN
        offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
        try:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6)
        except OSError:
            # Linux before 6.2 knows no UDP segmentation here.
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, offloads)
        else:
            self.hw_features |= NETIF_F_GSO_UDP_L4
        if host.kernel_version() >= BIG_TCP_SINCE:
            self.tso_max_size = BIG_TCP_SIZE

    def _kernel_mtu(self) -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, SIOCGIFMTU, _IFREQ_INT.pack(self.name.encode(), 0))
        kernel_mtu: int = _IFREQ_INT.unpack(answer)[1]
        return kernel_mtu

    def open(self, dev: Any) -> None:
        if self._fd < 0:
            raise error(errno.ENODEV, f"{self.name} has been closed")
        if self._more:
            raise error(errno.EINVAL, f"{self.name} has {self.queues} queues, and a stack serves one: keep() one first")
        self._throw_away_stale()
        self._dev = dev
        self._napi = dev.napi
        self._reader = None if self._vnet else FrameReader(self._fd, READ_SIZE)
        if self._host is not None:
            self._host.begin(dev.net.loop.now, self._moved(dev))

    def _throw_away_stale(self) -> None:
        try:
            for _ in range(MAX_STALE):
                _read(self._fd, READ_SIZE)
        except OSError:
            # There is no more; or the interface is down, which is for the host to change.
            return

    def stop(self) -> None:
        self._dev = None
        self._reader = None
        if self._host is not None:
            self._host.rest()

    def keep(self, number: int) -> None:
        """Let go of all queues but one, from 0; the others are for other processes. Raises IndexError."""
        every = [self._fd, *self._more]
        if not 0 <= number < len(every):
            raise IndexError(f"{self.name} has {len(every)} queues, there is no number {number}")
        self._fd = every.pop(number)
        self._more = []
        for fd in every:
            os.close(fd)

    def close(self) -> None:
        """Let go of the interface; the kernel removes it unless it is persistent. May be called twice."""
        more, self._more = self._more, []
        for other in more:
            os.close(other)
        if self._host is not None:
            self._host.rest()
            self._host.close()
        fd = self._fd
        self._fd = -1
        self._dev = None
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        return self._fd if self._dev is not None else -1

    def carrier(self) -> bool:
        return self._fd >= 0

    def xmit(self, skb: SKBuff) -> bool:
        data = skb.data
        tail = skb.tail
        head = skb.head
        parts: list[bytes | memoryview] = [head if data == 0 and tail == len(head) else head[data:tail]]
        frags = skb.frags
        if frags:
            if len(frags) > IOV_MAX - 2:
                frags = [b"".join(frags)]
            parts += frags
        if self._vnet:
            parts.insert(0, transmit_header(skb))
        try:
            _writev(self._fd, parts)
        except OSError as problem:
            return self._write_failed(skb, problem.errno or 0)
        destructor = skb.destructor
        if destructor is not None:
            skb.destructor = None
            destructor(skb)
        return True

    def write_frames(self, frames: list[bytes], start: int) -> int:
        fd = self._fd
        at = start
        try:
            for frame in frames[start:] if start else frames:
                _write(fd, frame)
                at += 1
        except OSError as problem:
            self._write_failed(SKBuff(frames[at]), problem.errno or 0)
        return at

    def _write_failed(self, skb: SKBuff, code: int) -> bool:
        dev = self._dev
        if dev is None:
            return False
        if code in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
            if code != errno.EAGAIN and self._vnet and dev.gso_max_size > GSO_LEGACY_MAX_SIZE:
                # The host has not so many contiguous pages left: what needs half of them from now on.
                dev.set_gso_max_size(max(dev.gso_max_size >> 1, GSO_LEGACY_MAX_SIZE))
            dev.stop_queue()
            return False
        dev.statistics.tx_errors += 1
        if code == errno.EIO:
            # The host's side is down.
            dev.statistics.tx_carrier_errors += 1
            skb.drop(DropReason.DEV_READY, dev.net.drops)
        elif code == errno.EINVAL:
            # The kernel takes no such frame: shorter than a header, or offload fields it doesn't believe.
            skb.drop(DropReason.DEV_HDR, dev.net.drops)
        else:
            skb.drop(DropReason.LINK_FAILURE, dev.net.drops)
        return True

    def _look(self, dev: Any) -> None:
        """Let the host's thread come or go with what is moved."""
        self._until_look = LOOK
        if self._host is not None:
            self._host.look(dev.net.loop.now, self._moved(dev))

    @staticmethod
    def _moved(dev: Any) -> int:
        """Bytes that the device has received and sent."""
        return int(dev.statistics.rx_bytes + dev.statistics.tx_bytes)

    def poll(self, budget: int) -> int:
        dev = self._dev
        napi = self._napi
        if dev is None or napi is None:
            return 0
        if dev.stopped:
            dev.wake_queue()
        self._until_look -= 1
        if not self._until_look:
            self._look(dev)
        reader = self._reader
        if reader is not None:
            return reader.poll(dev, napi, budget)
        fd = self._fd
        hard_header_len: int = dev.hard_header_len
        # Where packets come one at a time, a second read finds nothing. Whoever watches the descriptor hears again of
        # what is left there.
        alone = self._alone if dev.net.loop.trampoline is not None else 0
        done = 0
        try:
            while done < budget:
                frame: bytes = _read(fd, READ_SIZE)
                # A super-segment is as much work as several packets, and a poll is not to take long.
                done += 1 + (len(frame) >> 15)
                train = napi.train
                if train is not None and train.take(frame):
                    continue
                skb = SKBuff(frame, VIRTIO_NET_HDR_LEN)
                if skb.len < 0 or not receive_header(skb, hard_header_len):
                    dev.statistics.rx_errors += 1
                    dev.statistics.rx_frame_errors += 1
                    skb.drop(DropReason.BAD_GSO, dev.net.drops)
                    continue
                if skb.gso_type & SKB_GSO_UDP_L4:
                    # No window holds datagrams back: what comes faster than it is read would only be dropped.
                    done += skb.gso_segs
                if alone and done == 1:
                    self._alone = alone - 1
                    napi.receive_alone(skb)
                    return done
                napi.receive(skb)
        except OSError as problem:
            if done:
                self._alone = ALONE if done == 1 else 0
            if problem.errno != errno.EAGAIN and problem.filename is None:
                dev.statistics.rx_errors += 1
        return done


@final
class Tap(TunTap):
    """A TAP device: Ethernet frames to and from an interface of the host. See `TunTap.__init__` for the arguments."""

    _mode = IFF_TAP
    link_type = ARPHRD_ETHER
    kind = "tap"


@final
class Tun(TunTap):
    """A TUN device: bare IP packets to and from an interface of the host. See `TunTap.__init__`."""

    _mode = IFF_TUN
    link_type = ARPHRD_NONE
    kind = "tun"


def open_device(path: str) -> int:
    """Open the clone device. Raises OSError, which tells what to do about it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise error(
            errno.ENOENT, f"there is no {path}: load the kernel's module tun, or give the container the device"
        ) from None
    except PermissionError as problem:
        raise error(problem.errno or errno.EACCES, f"{path} may not be opened by this user") from None


def attach(fd: int, name: bytes, flags: int, kind: str) -> str:
    """Make, or attach to, the interface `name`; returns the name it has. Raises OSError, as the class tells."""
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name, flags))
    except OSError as problem:
        raise explain(problem.errno or 0, name.decode(), kind) from None
    return answer[:IFNAMSIZ].rstrip(b"\0").decode()


def explain(code: int, name: str, kind: str) -> OSError:
    """What the kernel's refusal to make or attach to an interface means."""
    what = f"{kind} {name!r}" if name else kind
    if code == errno.EPERM:
        return error(
            code,
            f"{what}: making one takes CAP_NET_ADMIN; or have root make it for this user: "
            f"ip tuntap add {name or 'NAME'} mode {kind.lower()} user USER",
        )
    if code == errno.EBUSY:
        return error(code, f"{what}: another program is attached to it")
    if code == errno.EINVAL:
        return error(code, f"{what}: the host has an interface of that name which is no {kind.upper()}")
    return error(code, f"{what}: {os.strerror(code)}")
