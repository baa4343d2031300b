"""Tracepoints: named places where something can be seen happening, at the cost of one test where nobody looks.

A probe is called inside the stack, under its lock: it may record, but not call the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

TRACEPOINTS: Final = (
    "kfree_skb",  # (skb, reason): a packet was dropped
    "netif_receive_skb",  # (skb): a device handed a packet to the stack
    "net_dev_xmit",  # (skb, accepted): a driver was given a packet
    "neigh_update",  # (neighbour, old state, new state)
    "inet_sock_set_state",  # (sk, old state, new state)
    "tcp_sendmsg_locked",  # (sk, msg): an application sends
    "tcp_probe",  # (sk, skb): a segment was received on an established connection
    "tcp_retransmit_skb",  # (sk, skb)
    "tcp_retransmit_synack",  # (listener, request)
    "tcp_send_reset",  # (sk or None, skb or None): skb is what is answered
    "tcp_receive_reset",  # (sk)
    "tcp_destroy_sock",  # (sk)
    "tcp_bad_csum",  # (skb)
    "tcp_cong_state_set",  # (sk, new state)
    "tcp_cwnd_reduction_tp",  # (sk, newly acknowledged or sacked, newly lost, FLAG_*)
    "tcp_rcv_space_adjust",  # (sk): an application read
    "tcp_rcvbuf_grow",  # (sk, elapsed µs): the receive buffer is to follow
    "tcp_hash_bad_header",  # (sk, skb): a segment whose options can't be trusted was dropped
    "tcp_hash_md5_required",  # (sk, skb): an unsigned segment of a peer with a key of TCP MD5
    "tcp_hash_md5_unexpected",  # (sk, skb): a segment signed with TCP MD5, of a peer without a key
    "tcp_hash_md5_mismatch",  # (sk, skb): a wrong signature
    "tcp_hash_ao_required",  # (sk, skb): an unsigned segment where TCP-AO is a must
    "tcp_ao_handshake_failure",  # (sk, skb, keyid, rnext, maclen): a handshake that goes on otherwise than it began
    "tcp_ao_wrong_maclen",  # (sk, skb, keyid, rnext, maclen)
    "tcp_ao_mismatch",  # (sk, skb, keyid, rnext, maclen): a wrong code
    "tcp_ao_key_not_found",  # (sk, skb, keyid, rnext, maclen)
    "tcp_ao_rnext_request",  # (sk, skb, keyid, rnext, maclen): the peer asks for another key
    "tcp_ao_synack_no_key",  # (sk, keyid, rnext): no SYN+ACK, for the key asked for is gone
    "tcp_ao_snd_sne_update",  # (sk, sne): the numbers of what is sent went round
    "tcp_ao_rcv_sne_update",  # (sk, sne): those of what is received did
)


_NONE: Final[tuple[Callable[..., None], ...]] = ()
"""The probes of every tracepoint that has none, which most are."""


@final
class Tracepoint:
    """One tracepoint. `probes` is public so that the data path can test it without a call."""

    __slots__ = ("name", "probes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.probes: Sequence[Callable[..., None]] = _NONE

    def attach(self, probe: Callable[..., None]) -> None:
        """Have `probe` called from now on, with the stack's lock held. Raises TypeError where it can't be called."""
        if not callable(probe):
            raise TypeError(f"{self.name}: expected a function, not {probe!r}")
        probes = self.probes
        if isinstance(probes, list):
            probes.append(probe)
        else:
            self.probes = [probe]

    def detach(self, probe: Callable[..., None]) -> None:
        """Raises ValueError where it is not attached."""
        probes = self.probes
        if not isinstance(probes, list):
            raise ValueError(f"{self.name}: this probe is not attached")
        probes.remove(probe)

    def fire(self, *args: Any) -> None:
        for probe in tuple(self.probes):
            probe(*args)


@final
class Trace:
    """The tracepoints of one stack, as attributes: `stack.trace.kfree_skb.attach(probe)`."""

    def __init__(self) -> None:
        self.kfree_skb = Tracepoint("kfree_skb")
        self.kfree_skb.probes = []  # of its own from the start, for `Drops` keeps it
        self.netif_receive_skb = Tracepoint("netif_receive_skb")
        self.net_dev_xmit = Tracepoint("net_dev_xmit")
        self.neigh_update = Tracepoint("neigh_update")
        self.inet_sock_set_state = Tracepoint("inet_sock_set_state")
        self.tcp_sendmsg_locked = Tracepoint("tcp_sendmsg_locked")
        self.tcp_retransmit_skb = Tracepoint("tcp_retransmit_skb")
        self.tcp_retransmit_synack = Tracepoint("tcp_retransmit_synack")
        self.tcp_destroy_sock = Tracepoint("tcp_destroy_sock")
        self.tcp_bad_csum = Tracepoint("tcp_bad_csum")
        self.tcp_send_reset = Tracepoint("tcp_send_reset")
        self.tcp_receive_reset = Tracepoint("tcp_receive_reset")
        self.tcp_probe = Tracepoint("tcp_probe")
        self.tcp_cong_state_set = Tracepoint("tcp_cong_state_set")
        self.tcp_cwnd_reduction_tp = Tracepoint("tcp_cwnd_reduction_tp")
        self.tcp_rcv_space_adjust = Tracepoint("tcp_rcv_space_adjust")
        self.tcp_rcvbuf_grow = Tracepoint("tcp_rcvbuf_grow")
        self.tcp_hash_bad_header = Tracepoint("tcp_hash_bad_header")
        self.tcp_hash_md5_required = Tracepoint("tcp_hash_md5_required")
        self.tcp_hash_md5_unexpected = Tracepoint("tcp_hash_md5_unexpected")
        self.tcp_hash_md5_mismatch = Tracepoint("tcp_hash_md5_mismatch")
        self.tcp_hash_ao_required = Tracepoint("tcp_hash_ao_required")
        self.tcp_ao_handshake_failure = Tracepoint("tcp_ao_handshake_failure")
        self.tcp_ao_wrong_maclen = Tracepoint("tcp_ao_wrong_maclen")
        self.tcp_ao_mismatch = Tracepoint("tcp_ao_mismatch")
        self.tcp_ao_key_not_found = Tracepoint("tcp_ao_key_not_found")
        self.tcp_ao_rnext_request = Tracepoint("tcp_ao_rnext_request")
        self.tcp_ao_synack_no_key = Tracepoint("tcp_ao_synack_no_key")
        self.tcp_ao_snd_sne_update = Tracepoint("tcp_ao_snd_sne_update")
        self.tcp_ao_rcv_sne_update = Tracepoint("tcp_ao_rcv_sne_update")

    def __getitem__(self, name: str) -> Tracepoint:
        """The tracepoint of that name; KeyError names those that exist."""
        if name not in TRACEPOINTS:
            raise KeyError(f"no tracepoint named {name!r}; there are: {', '.join(TRACEPOINTS)}")
        point: Tracepoint = getattr(self, name)
        return point
