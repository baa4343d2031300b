"""A VPN without root: two stacks whose IP packets travel inside UDP datagrams of the host's network.

Here both ends are in one process and talk over the loopback; put them on two machines, encrypt `payload` on its way,
and it is a tunnel. A driver is all it takes: what a NIC does is `open`, `stop`, `xmit` and `poll`.

    python examples/tunnel.py
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import usernet
from usernet.netdevice.driver import ARPHRD_NONE, Driver
from usernet.skbuff.skbuff import SKBuff


class UdpTunnel(Driver):
    """A device whose packets go to `peer` as UDP datagrams, and come from there. sock: bound, of the host's."""

    link_type = ARPHRD_NONE  # bare IP packets, no Ethernet and no ARP
    mtu = 1400  # what fits into a datagram that an Ethernet takes whole
    kind = "udp-tunnel"

    def __init__(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._peer = peer
        self._dev: Any = None

    def fileno(self) -> int:
        """Readable when packets have come: the interrupt."""
        return self._sock.fileno()

    def open(self, dev: Any) -> None:
        self._dev = dev

    def stop(self) -> None:
        self._dev = None

    def close(self) -> None:
        self._sock.close()

    def xmit(self, skb: SKBuff) -> bool:
        payload = skb.tobytes()
        try:
            self._sock.sendto(payload, self._peer)
        except OSError:
            pass  # lost, as packets are
        skb.consume()
        return True

    def poll(self, budget: int) -> int:
        for count in range(budget):
            try:
                payload, sender = self._sock.recvfrom(65536)
            except OSError:
                return count
            if sender == self._peer:
                self._dev.napi.receive(SKBuff(payload))
        return budget


def main() -> None:
    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near.bind(("127.0.0.1", 0))
    far.bind(("127.0.0.1", 0))

    with usernet.Stack("near") as here, usernet.Stack("far") as there:
        here.add_device(UdpTunnel(near, far.getsockname()), "tun0", "10.8.0.1/24")
        there.add_device(UdpTunnel(far, near.getsockname()), "tun0", "10.8.0.2/24")

        with there.socket() as server, here.socket() as client:
            server.bind(("10.8.0.2", 80))
            server.listen()

            def serve() -> None:
                connection, address = server.accept()
                with connection:
                    size = 0
                    while piece := connection.recv(65536):
                        size += len(piece)
                    connection.sendall(b"%d bytes came through the tunnel from %s" % (size, address[0].encode()))

            thread = threading.Thread(target=serve)
            thread.start()
            client.connect(("10.8.0.2", 80))
            client.sendall(bytes(1_000_000))
            client.shutdown(socket.SHUT_WR)
            print(client.recv(1000).decode())
            thread.join()


if __name__ == "__main__":
    main()
