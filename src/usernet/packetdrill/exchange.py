"""Between a script's packets and the wire's: whose a packet is, and what its numbers are on the other side.

A script counts sequence numbers from 0 at each side's SYN, and knows no addresses and no ports; the stack picks its own
initial sequence numbers, ports and time stamps. So each connection has its script side and its live side, learnt from
the packets and calls that go by, and the numbers of all later packets are shifted by the difference:

    numbers        in a packet with SYN         in all others
    remote's       as they are                  + remote ISN
    local's        + live ISN - script's ISN    + live ISN

As in packetdrill (`socket.h`, `run_packet.c`), a script tests one connection at a time: the socket made last, or the
connection that a SYN for it made last.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import Final, final

from usernet.packetdrill import build
from usernet.packetdrill.ast import INBOUND, OUTBOUND, Icmp, Packet, Tcp, TcpOption, Udp
from usernet.packetdrill.config import Config
from usernet.packetdrill.errors import BadEvent, Mismatch
from usernet.packetdrill.live import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Live
from usernet.wire import tcp

# What a script has done with a socket so far.
INIT: Final = 0
NEW: Final = 1  # socket()
PASSIVE_LISTENING: Final = 2  # listen()
PASSIVE_PACKET_RECEIVED: Final = 3  # a SYN came
PASSIVE_SYNACK_SENT: Final = 4
PASSIVE_SYNACK_ACKED: Final = 5
ACTIVE_CONNECTING: Final = 6  # connect()
ACTIVE_SYN_SENT: Final = 7
ACTIVE_SYN_ACKED: Final = 8

U32: Final = 0xFFFFFFFF
FIRST_REMOTE_PORT: Final = 40001  # of connections to a listening socket; each takes the next

_U32_PAIR: Final = Struct("!II")


@final
class Connection:
    """A socket of a script, or a connection that a packet made.

    `script_fd`, `live_fd`: its descriptors, -1 before there is one (or none any more). Addresses and ports are live;
    0 or empty until learnt. `script_local_isn`, …: initial sequence numbers. `ts_values`: sent time stamps, script's
    to live. `first_ts`: the first of them, None before it. `flow_labels`: (script's, live) of the last packet with one.
    """

    def __init__(self) -> None:
        self.state = INIT
        self.domain = 0
        self.type = 0
        self.protocol = 0
        self.script_fd = -1
        self.live_fd = -1
        self.closed = False
        self.local_address = b""
        self.local_port = 0
        self.remote_address = b""
        self.remote_port = 0
        self.script_local_isn = 0
        self.script_remote_isn = 0
        self.live_local_isn = 0
        self.live_remote_isn = 0
        self.ts_values: dict[int, int] = {}
        self.first_ts: tuple[int, int] | None = None
        self.flow_labels: tuple[int, int] | None = None

    def remote_offset(self, flags: int) -> int:
        """What is added to the remote's sequence numbers on the way from the script to the wire."""
        return 0 if flags & tcp.SYN else self.live_remote_isn

    def local_offset(self, flags: int) -> int:
        """The same for the stack's own."""
        return self.live_local_isn - self.script_local_isn if flags & tcp.SYN else self.live_local_isn

    def owns(self, live: Live) -> bool:
        """Whether a sent packet's addresses and ports are this connection's, which are known."""
        return self.local_port != 0 and (live.source, live.source_port, live.destination, live.destination_port) == (
            self.local_address, self.local_port, self.remote_address, self.remote_port,
        )

    @property
    def is_icmp(self) -> bool:
        return self.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6)


def shift_sacks(options: list[TcpOption], offset: int) -> list[TcpOption]:
    """Options with the edges of all SACK blocks shifted."""
    out: list[TcpOption] = []
    for option in options:
        if option.kind == tcp.TCPOPT_SACK and len(option.data) % 8 == 0:
            edges = _U32_PAIR.iter_unpack(option.data)
            data = b"".join(_U32_PAIR.pack(left + offset & U32, right + offset & U32) for left, right in edges)
            option = TcpOption(option.kind, data)
        out.append(option)
    return out


@final
class Exchange:
    """All connections of one run, and which of them is under test."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.connections: list[Connection] = []  # the newest last
        self.under_test: Connection | None = None
        self._next_port = FIRST_REMOTE_PORT

    def new_connection(self) -> Connection:
        """Make a connection, under test from now on."""
        connection = Connection()
        self.connections.append(connection)
        self.under_test = connection
        return connection

    # ------------------------------------------------------------ which connection a script's packet is for

    def find(self, packet: Packet) -> Connection:
        """The connection that a packet of the script belongs to, made here if its first packet is this.

        Raises BadEvent where there is none.
        """
        connection = self.under_test
        body = packet.body
        if isinstance(body, Tcp):
            if packet.direction == INBOUND and (connection is None or connection.state == PASSIVE_LISTENING):
                return self._passive(body)
            opens = body.flags & (tcp.SYN | tcp.ACK) == tcp.SYN and packet.direction == OUTBOUND
            if opens and connection is not None and connection.state == ACTIVE_CONNECTING:
                connection.state = ACTIVE_SYN_SENT
                connection.script_local_isn = body.seq
                return connection
        if connection is None:
            raise BadEvent("found a packet and no socket that it could be for, expected a call of socket() before it")
        if not self._fits(packet, connection) and not _has_ports(body):
            raise BadEvent("found a packet of another protocol than the socket under test, expected the same")
        return connection

    @staticmethod
    def _fits(packet: Packet, connection: Connection) -> bool:
        if isinstance(packet.body, Icmp):
            return True
        return connection.protocol == (IPPROTO_TCP if isinstance(packet.body, Tcp) else IPPROTO_UDP)

    def _passive(self, syn: Tcp) -> Connection:
        """A packet came for a listening socket, or for none: what follows is about the connection that it makes."""
        config = self.config
        connection = self.new_connection()
        connection.state = PASSIVE_PACKET_RECEIVED
        connection.domain = config.socket_domain
        connection.protocol = IPPROTO_TCP
        connection.script_remote_isn = connection.live_remote_isn = syn.seq
        connection.remote_address = config.remote_ip
        connection.remote_port = self._next_port
        connection.local_address = config.local_ip
        connection.local_port = config.bind_port
        self._next_port += 1
        return connection

    def connecting(self, connection: Connection) -> None:
        """The script called connect(), or sends to an address: the stack is about to pick a local port."""
        connection.state = ACTIVE_CONNECTING
        connection.local_address = b""
        connection.local_port = 0
        connection.remote_address = self.config.remote_ip
        connection.remote_port = self.config.connect_port

    def accepted(self, script_fd: int, live_fd: int, address: bytes, port: int) -> None:
        """The script accepted a connection, whose peer is `address` and `port`. Raises Mismatch for an unknown one."""
        for connection in reversed(self.connections):
            # With Fast Open a connection is there as soon as its SYN came.
            if connection.state in (PASSIVE_SYNACK_SENT, PASSIVE_SYNACK_ACKED, PASSIVE_PACKET_RECEIVED):
                if address[-len(connection.remote_address) :] != connection.remote_address:
                    raise Mismatch("accept(): expected the connection of the script's SYN, but it has another address")
                if port != connection.remote_port:
                    raise Mismatch(
                        f"accept(): expected the connection from port {connection.remote_port}, but it is from {port}"
                    )
                connection.script_fd = script_fd
                connection.live_fd = live_fd
                connection.closed = False
                return
        raise Mismatch("accept(): expected no connection, for the script saw none established, but there is one")

    # ------------------------------------------------------------ in

    def inbound(self, packet: Packet) -> bytes:
        """The bytes of a packet for the stack. Raises BadEvent for one that can't be made."""
        connection = self.find(packet)
        body = packet.body
        self._learn_inbound(connection, body)
        source, destination = connection.remote_address, connection.local_address
        if not source or not destination:
            raise BadEvent("found a packet of a connection without known addresses, expected one sent before it")
        if isinstance(body, Tcp):
            data = build.tcp_packet(source, destination, self._live_segment(connection, body), packet.info)
        elif isinstance(body, Udp):
            data = build.udp_packet(
                source,
                destination,
                body.source_port or connection.remote_port,
                body.destination_port or connection.local_port,
                body.length,
                packet.info,
            )
        else:
            quoted = replace(body, seq=body.seq + connection.live_local_isn & U32)
            ports = (connection.local_port, connection.remote_port)
            data = build.icmp_packet(source, destination, quoted, ports, packet.info)
        return build.encapsulate(data, packet.encapsulations)

    def _learn_inbound(self, connection: Connection, body: Tcp | Udp | Icmp) -> None:
        if isinstance(body, Tcp):
            if connection.state == PASSIVE_SYNACK_SENT and body.flags & tcp.ACK:
                connection.state = PASSIVE_SYNACK_ACKED
            elif connection.state == ACTIVE_SYN_SENT and body.flags & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK:
                connection.state = ACTIVE_SYN_ACKED
                connection.script_remote_isn = connection.live_remote_isn = body.seq
        elif self.config.is_anyip:  # nothing was sent yet from which the addresses could be learnt
            connection.remote_address = self.config.remote_ip
            connection.local_address = self.config.local_ip
            connection.remote_port = connection.remote_port or self.config.connect_port
            connection.local_port = connection.local_port or self.config.bind_port

    def _live_segment(self, connection: Connection, segment: Tcp) -> Tcp:
        ack_offset = connection.local_offset(segment.flags)
        options = shift_sacks(segment.options or [], ack_offset)
        acks = bool(segment.flags & tcp.ACK)
        if acks:
            options = [self._live_echo(connection, option) for option in options]
        return replace(
            segment,
            seq=segment.seq + connection.remote_offset(segment.flags) & U32,
            ack=segment.ack + ack_offset & U32 if acks else segment.ack,
            options=options,
            source_port=segment.source_port or connection.remote_port,
            destination_port=segment.destination_port or connection.local_port,
        )

    def _live_echo(self, connection: Connection, option: TcpOption) -> TcpOption:
        """A time stamp option whose echo is of the stack's own clock."""
        if option.kind != tcp.TCPOPT_TIMESTAMP or len(option.data) != 8:
            return option
        val, ecr = _U32_PAIR.unpack(option.data)
        live = connection.ts_values.get(ecr)
        if live is None:
            if not self.config.ts_ecr_scaled or connection.first_ts is None:
                raise BadEvent(
                    f"found TS ecr {ecr}, expected a TS val of a packet sent before "
                    "(or --tcp_ts_ecr_scaled, to take it relative to the first)"
                )
            script_first, live_first = connection.first_ts
            live = ecr - script_first + live_first & U32
        return TcpOption(option.kind, _U32_PAIR.pack(val, live))

    # ------------------------------------------------------------ out

    def is_outbound(self, live: Live) -> bool:
        """Whether a packet that the stack sent is the connection's under test; its local port is learnt here."""
        connection = self.under_test
        if connection is None:
            return False
        known = connection.local_address and live.source == connection.local_address
        if known and live.destination == connection.remote_address:
            ports = (live.source_port, live.destination_port)
            if ports == (connection.local_port, connection.remote_port):
                return True
            if connection.is_icmp and live.is_icmp:
                return True
        return self._is_first_outbound(connection, live)

    def _is_first_outbound(self, connection: Connection, live: Live) -> bool:
        if live.destination != connection.remote_address:
            return False
        if any(other.owns(live) for other in self.connections if other is not connection):
            return False
        opens = live.is_tcp and live.flags & (tcp.SYN | tcp.ACK) == tcp.SYN
        if connection.protocol == IPPROTO_TCP:
            first = opens and connection.state == ACTIVE_SYN_SENT
        elif connection.protocol == IPPROTO_UDP:
            first = live.is_udp and connection.state == ACTIVE_CONNECTING
        else:
            first = live.is_icmp and connection.is_icmp and connection.state == ACTIVE_CONNECTING
        if not first or (not connection.is_icmp and live.destination_port != connection.remote_port):
            return False
        connection.local_address = live.source
        connection.local_port = live.source_port
        if live.is_tcp:
            connection.live_local_isn = live.seq
        return True

    def learn_outbound(self, connection: Connection, packet: Packet, live: Live) -> None:
        """Take initial sequence numbers from the SYN-ACK that a script expects and from what came for it."""
        body = packet.body
        wanted = tcp.SYN | tcp.ACK
        if connection.state == PASSIVE_PACKET_RECEIVED and isinstance(body, Tcp) and body.flags & wanted == wanted:
            connection.state = PASSIVE_SYNACK_SENT
            connection.script_local_isn = body.seq
            connection.live_local_isn = live.seq

    def to_script_numbers(self, connection: Connection, live: Live) -> None:
        """Rewrite a sent segment's sequence numbers, and those in its options, to the script's."""
        if not live.is_tcp:
            return
        live.seq = live.seq - connection.local_offset(live.flags) & U32
        offset = connection.remote_offset(live.flags)
        if live.flags & tcp.ACK:
            live.ack = live.ack - offset & U32
        live.options = shift_sacks(live.options, -offset)

    def to_script_time_stamp(self, connection: Connection, packet: Packet, live: Live) -> None:
        """Rewrite a sent segment's TS val to the script's clock, and remember which live value the script's means."""
        body = packet.body
        if not isinstance(body, Tcp):
            return
        actual = live.time_stamp()
        expected = next(
            (o for o in body.options or [] if o.kind == tcp.TCPOPT_TIMESTAMP and len(o.data) == 8), None
        )
        if actual is None or expected is None:
            return
        val, ecr = actual
        script_val: int = _U32_PAIR.unpack(expected.data)[0]
        connection.ts_values[script_val] = val
        if connection.first_ts is None:
            connection.first_ts = (script_val, val)
        script_first, live_first = connection.first_ts
        data = _U32_PAIR.pack(script_first + val - live_first & U32, ecr)
        live.options = [
            TcpOption(option.kind, data) if option.kind == tcp.TCPOPT_TIMESTAMP else option for option in live.options
        ]


def _has_ports(body: Tcp | Udp | Icmp) -> bool:
    return not isinstance(body, Icmp) and bool(body.source_port or body.destination_port)
