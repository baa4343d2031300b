"""The virtio-net header: what a TUN/TAP device, a packet socket or a virtual machine says about a frame's offloads.

It stands before each frame where a driver asked for it (IFF_VNET_HDR, PACKET_VNET_HDR) and carries across the border
what `ip_summed`, `csum_start` and `gso_*` say inside. Virtual I/O Device 1.2 section 5.1.6; Linux:
`include/uapi/linux/virtio_net.h`, `virtio_net_hdr_to_skb`.

    0       1          2         4          6            8             10
    | flags | gso_type | hdr_len | gso_size | csum_start | csum_offset |

Little endian: so it is by the standard, and so a TUN device has it in its default of the host's order on the machines
that are little-endian; elsewhere a driver asks for it with TUNSETVNETLE.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.core.compiled import COMPILED

if TYPE_CHECKING:
    from usernet.core.native import i64

VIRTIO_NET_HDR_LEN: Final = 10
VIRTIO_NET_HDR_MRG_RXBUF_LEN: Final = 12  # with num_buffers: virtio 1.0 and merged receive buffers

VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_F_DATA_VALID: Final = 2
VIRTIO_NET_HDR_F_RSC_INFO: Final = 4

VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_UDP: Final = 3
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80  # a bit beside the type: some segment has CWR set

_HDR: Final = Struct("<BBHHHH")

if COMPILED:

    def _load16(b: bytes, o: i64) -> i64:
        low: i64 = b[o]
        high: i64 = b[o + 1]
        return high << 8 | low

    def parse(b: bytes, o: int) -> tuple[int, int, int, int, int, int]:
        """`parse(b, o) -> (flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)`: VIRTIO_NET_HDR_LEN bytes."""
        at: i64 = o
        return b[at], b[at + 1], _load16(b, at + 2), _load16(b, at + 4), _load16(b, at + 6), _load16(b, at + 8)

else:
    parse = _HDR.unpack_from  # type: ignore[assignment]

build: Final[Callable[[int, int, int, int, int, int], bytes]] = _HDR.pack
"""`build(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset) -> bytes`: VIRTIO_NET_HDR_LEN bytes."""

EMPTY: Final = bytes(VIRTIO_NET_HDR_LEN)
"""The header of a frame that needs nothing: not segmented, checksums in place."""
