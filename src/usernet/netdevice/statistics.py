"""A network device's counters (Linux: `struct rtnl_link_stats64`, include/uapi/linux/if_link.h)."""

from __future__ import annotations

from typing import Final, final

_LINK_STATS: Final = (
    "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
    "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
    "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
    "tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler",
)  # fmt: skip
"""The names of `LinkStats`, in Linux's order."""


@final
class LinkStats:
    """A device's counters (Linux: `struct rtnl_link_stats64`). Packets and bytes as the wire has them: a super-segment
    counts as the packets it stands for, with a header each where it is sent; one that the NIC itself received so
    comes with one header. What GRO merges was counted before."""

    def __init__(self) -> None:
        self.rx_packets: int = 0
        self.tx_packets: int = 0
        self.rx_bytes: int = 0
        self.tx_bytes: int = 0
        self.rx_errors: int = 0
        self.tx_errors: int = 0
        self.rx_dropped: int = 0
        self.tx_dropped: int = 0
        self.multicast: int = 0
        self.collisions: int = 0
        self.rx_length_errors: int = 0
        self.rx_over_errors: int = 0
        self.rx_crc_errors: int = 0
        self.rx_frame_errors: int = 0
        self.rx_fifo_errors: int = 0
        self.rx_missed_errors: int = 0
        self.tx_aborted_errors: int = 0
        self.tx_carrier_errors: int = 0
        self.tx_fifo_errors: int = 0
        self.tx_heartbeat_errors: int = 0
        self.tx_window_errors: int = 0
        self.rx_compressed: int = 0
        self.tx_compressed: int = 0
        self.rx_nohandler: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by Linux's names, in the order of its struct."""
        return {name: getattr(self, name) for name in _LINK_STATS}
