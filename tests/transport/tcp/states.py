"""Bringing a stack's socket into each state of RFC 9293 by hand."""

from __future__ import annotations

from tests.transport.tcp.harness import Peer, flags
from usernet.sockets.user import UserSocket
from usernet.wire.tcp import ACK, FIN, RST, SYN

STATES = (
    "CLOSED", "LISTEN", "SYN_SENT", "SYN_RECV", "NEW_SYN_RECV", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSING",
    "TIME_WAIT", "CLOSE_WAIT", "LAST_ACK",
)  # fmt: skip
SYNCHRONISED = ("ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSING", "CLOSE_WAIT", "LAST_ACK")


def enter(peer: Peer, state: str, *, held: bool = True, ts: bool = False, sack: bool = False) -> UserSocket | None:
    """Bring a socket of the stack into `state`; returns it, None where it is no socket of a program's.

    held: the program still holds it (it called shutdown, not close). All that was sent on the way has been taken. The
    peer's next sequence number is 1, or 2 once it has sent its FIN.
    """
    if state == "CLOSED":
        peer.local_port, peer.their_iss = 5555, 0
        return None
    if state in ("LISTEN", "NEW_SYN_RECV"):
        server = peer.listen()
        peer.local_port, peer.port = 80, 40000
        peer.their_iss = 0
        if state == "NEW_SYN_RECV":
            peer.send(SYN, options=peer.syn_options(sack=sack, ts=ts))
            peer.expect(flags(SYN | ACK))
            peer.ts = ts
        return server
    if state in ("SYN_SENT", "SYN_RECV"):
        sock = peer.dial()
        peer.expect(flags(SYN))
        if state == "SYN_RECV":
            peer.send(SYN, options=peer.syn_options(sack=sack, ts=ts))
            peer.expect(flags(SYN | ACK))
            peer.ts = ts
        return sock
    sock = peer.active(ts=ts, sack=sack)
    if state == "ESTABLISHED":
        return sock
    if state in ("CLOSE_WAIT", "LAST_ACK"):
        peer.send(FIN, 1, 1)
        peer.expect(flags(ACK))
        if state == "CLOSE_WAIT":
            return sock
        _finish(sock, held)
        peer.settle()
        peer.expect(flags(FIN | ACK))
        return sock
    _finish(sock, held)
    peer.settle()
    peer.expect(flags(FIN | ACK))
    if state == "FIN_WAIT1":
        return sock
    if state == "CLOSING":
        peer.send(FIN, 1, 1)
        peer.expect(flags(ACK))
        return sock
    peer.send(ACK, 1, 2)
    if state == "FIN_WAIT2":
        return sock
    peer.send(FIN, 1, 2)
    peer.expect(flags(ACK))
    return sock


def _finish(sock: UserSocket, held: bool) -> None:
    if held:
        sock.shutdown(1)
    else:
        sock.close()


__all__ = ["RST", "STATES", "SYNCHRONISED", "enter"]
