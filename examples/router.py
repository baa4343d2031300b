"""Three hosts in a row, the middle one a router; who traces the route, and what a sniffer sees on the way.

    python examples/router.py
"""

from __future__ import annotations

import socket
import struct

import usernet

ETH_P_IP = 0x0800
IP_RECVERR = 11  # Python's socket module has no name for it


def hop(stack: usernet.Stack, ttl: int) -> str:
    """Who answers a datagram that may pass `ttl` routers less one (traceroute)."""
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_IP, socket.IP_TTL, ttl)
        sock.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        sock.settimeout(1)
        sock.connect(("10.0.1.2", 33434))
        sock.send(b"who is there?")
        try:
            sock.recv(100)
        except OSError:
            pass  # the error queue says more
        _, control, _, _ = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE)
    _, _, data = control[0]
    # struct sock_extended_err (ip(7)), then the address of who reported the error.
    _errno, _origin, kind, code, _pad, _info, _data = struct.unpack_from("=IBBBBII", data)
    offender = socket.inet_ntoa(data[20:24])
    reason = {(11, 0): "time exceeded", (3, 3): "port unreachable"}.get((kind, code), f"ICMP {kind}, code {code}")
    return f"{offender}: {reason}"


def main() -> None:
    with usernet.Lab(seed=1) as lab:
        a, router, c = lab.hosts(3, delay=0.003)

        with router.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)) as sniffer:
            print("route from a to c:")
            for ttl in (1, 2):
                print(f"  {ttl}  {hop(a, ttl)}")

            print("what the router saw:")
            sniffer.setblocking(False)
            while True:
                try:
                    packet, (device, *_) = sniffer.recvfrom(2000)
                except BlockingIOError:
                    break
                source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
                print(f"  {device}: {source} > {target}, TTL {packet[8]}, {len(packet)} bytes")
        print(f"the router forwarded {router.mib['Ip']['ForwDatagrams']}, c received {c.mib['Ip']['InReceives']}")


if __name__ == "__main__":
    main()
