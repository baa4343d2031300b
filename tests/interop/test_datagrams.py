"""UDP, ICMP errors and multicast between the stack and the kernel, on TAP and TUN."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.interop.bed import DEVICE, FAR, HOST, KERNEL, MAC, Bed, stack_bed
from tests.support import netns

pytestmark = netns.INTEROP

PORT: Final = 7000
GROUP: Final = "239.7.7.7"
IP_MTU_DISCOVER, IP_MTU, IP_RECVERR = 10, 14, 11  # linux/in.h
IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 0, 2
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104

DEVICES: Final = [
    pytest.param({}, id="tap"),
    pytest.param({"offload": False}, id="tap-plain"),
    pytest.param({"tun": True}, id="tun"),
    pytest.param({"tun": True, "offload": False}, id="tun-plain"),
]


@contextmanager
def datagram_sockets(bed: Bed) -> Iterator[tuple[Any, socket.socket]]:
    """The stack's socket and the kernel's, bound to PORT and connected to one another."""
    with bed.client.entered():
        kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with kernel, bed.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        kernel.bind((KERNEL, PORT))
        ours.bind((HOST, PORT))
        kernel.connect((HOST, PORT))
        ours.connect((KERNEL, PORT))
        kernel.settimeout(10)
        ours.settimeout(10)
        yield ours, kernel


@pytest.mark.parametrize("device", DEVICES)
def test_datagrams_of_all_sizes(device):
    with stack_bed(**device) as bed, datagram_sockets(bed) as pair:
        for size in (0, 1, 100, 1472, 1473, 2960, 2961, 8000, 65507):
            data = (bytes(range(251)) * 262)[:size]
            for one, other in (pair, pair[::-1]):
                one.send(data)
                assert other.recv(70000) == data
        ours, _ = pair
        with pytest.raises(OSError) as caught:
            ours.send(bytes(65508))
        assert caught.value.errno == errno.EMSGSIZE
        # 1473, 2960, 2961, 8000 and 65507 bytes; the last of them are 45 fragments.
        assert bed.stack.mib["Ip"]["FragOKs"] == bed.stack.mib["Ip"]["ReasmOKs"] == 5
        assert bed.stack.mib["Ip"]["FragCreates"] == bed.stack.mib["Ip"]["ReasmReqds"] == 2 + 3 + 3 + 6 + 45


def test_fragments_on_a_bad_link():
    """Reordered and duplicated fragments come together; where one is lost, the datagram is, and nothing else."""
    with stack_bed(impair={"duplicate": 0.1, "reorder": 0.3, "loss": 0.01, "seed": 9}) as bed:
        with datagram_sockets(bed) as pair:
            for one, other in (pair, pair[::-1]):
                got = set()
                other.settimeout(0.3)
                for number in range(100):
                    one.send(bytes([number]) * 5000)
                    try:
                        while True:
                            data = other.recv(70000)
                            assert data == bytes([data[0]]) * 5000
                            got.add(data[0])
                            if data[0] == number:
                                break
                    except TimeoutError:
                        continue
                assert 85 < len(got) < 100


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
def test_udp_segments_each_way(offload):
    """UDP_SEGMENT at the sender, and UDP_GRO, or none, at the receiver."""
    with stack_bed(offload=offload) as bed, datagram_sockets(bed) as pair:
        data = bytes(range(200)) * 50
        for one, other in (pair, pair[::-1]):
            one.setsockopt(SOL_UDP, UDP_SEGMENT, 1200)
            one.send(data)
            assert [len(other.recv(70000)) for _ in range(9)] == [1200] * 8 + [400]
            other.setsockopt(SOL_UDP, UDP_GRO, 1)
            one.send(data)
            got = b""
            while len(got) < len(data):
                block, ancillary, _, _ = other.recvmsg(70000, 100)
                if len(block) > 1200:
                    assert ancillary == [(SOL_UDP, UDP_GRO, struct.pack("i", 1200))]
                got += block
            assert got == data


def test_no_port_at_the_stack():
    with stack_bed() as bed, datagram_sockets(bed) as (ours, kernel):
        ours.close()
        kernel.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            kernel.recv(1)
        assert bed.stack.mib["Udp"]["NoPorts"] == 1
        assert bed.stack.mib["Icmp"]["OutDestUnreachs"] == 1


def test_no_port_at_the_kernel():
    with stack_bed() as bed, datagram_sockets(bed) as (ours, kernel):
        kernel.close()
        ours.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            ours.recv(1)
        assert bed.stack.mib["Icmp"]["InDestUnreachs"] == 1
        # And in full, with who said it, on the error queue.
        ours.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        ours.send(b"again")
        netns.wait_until(lambda: bed.stack.mib["Icmp"]["InDestUnreachs"] == 2, "the kernel's answer")
        data, ancillary, flags, address = ours.recvmsg(100, 200, socket.MSG_ERRQUEUE)
        assert data == b"again"
        assert flags & socket.MSG_ERRQUEUE
        assert address == (KERNEL, PORT)
        ((level, kind, value),) = ancillary
        assert (level, kind) == (socket.IPPROTO_IP, IP_RECVERR)
        number, origin, icmp_type, icmp_code = struct.unpack_from("=IBBB", value)
        assert (number, origin, icmp_type, icmp_code) == (errno.ECONNREFUSED, 2, 3, 3)
        assert value[20:24] == socket.inet_aton(KERNEL)


def test_the_kernel_tells_the_stack_the_path_mtu():
    """The kernel as router to a link with a smaller MTU: Frag Needed lowers the stack's path MTU, UDP and TCP."""
    with stack_bed() as bed, netns.Netns("beyond") as beyond:
        client = bed.client
        client.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        client.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "eth0", "netns", beyond.name)
        for where, device, address in ((client, "out0", "10.78.0.1"), (beyond, "eth0", FAR)):
            where.run("ip", "address", "add", f"{address}/24", "dev", device)
            where.run("ip", "link", "set", device, "mtu", "1000", "up")
        # The far host announces more than its link takes, so that only path MTU discovery helps.
        beyond.run("ip", "route", "add", "10.77.0.0/24", "via", "10.78.0.1", "advmss", "1460")
        bed.stack.add_route("10.78.0.0/24", via=KERNEL)
        with beyond.entered():
            listener = socket.create_server((FAR, PORT))
            far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with far, listener, bed.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
            far.bind((FAR, PORT))
            far.settimeout(10)
            ours.connect((FAR, PORT))
            ours.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            ours.send(bytes(1400))
            netns.wait_until(lambda: ours.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1000, "the path MTU to be learnt")
            with pytest.raises(OSError) as caught:
                ours.send(bytes(1400))
            assert caught.value.errno == errno.EMSGSIZE
            ours.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            ours.send(bytes(1400))
            assert len(far.recv(2000)) == 1400
            with bed.stack.socket() as stream:
                stream.connect((FAR, PORT))
                accepted, _ = listener.accept()
                with accepted:
                    accepted.settimeout(20)
                    stream.sendall(bytes(100_000))
                    stream.shutdown(socket.SHUT_WR)
                    got = 0
                    while block := accepted.recv(65536):
                        got += len(block)
                    assert got == 100_000


def groups_of_the_kernel(bed: Bed) -> str:
    return bed.client.run("ip", "maddress", "show", "dev", DEVICE).stdout


@contextmanager
def igmp_heard(bed: Bed) -> Iterator[list[bytes]]:
    """The IGMP messages the kernel's device receives from the stack: a packet socket in the namespace."""
    heard: list[bytes] = []
    with bed.client.entered():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with sniffer:
        sniffer.bind((DEVICE, 0x0800))
        yield heard
        sniffer.settimeout(10)
        while not heard:
            packet = sniffer.recv(2000)
            if packet[9] == 2 and packet[12:16] == socket.inet_aton(HOST):
                heard.append(packet)


def membership(group: str, address: str) -> bytes:
    return socket.inet_aton(group) + socket.inet_aton(address)


def test_the_kernel_hears_of_groups_joined_and_left():
    with stack_bed() as bed, bed.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        with igmp_heard(bed) as joined:
            ours.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership(GROUP, HOST))
        with igmp_heard(bed) as left:
            ours.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership(GROUP, HOST))
        # RFC 3376: change to exclude nothing, and to include nothing.
        for (packet,), record in ((joined, 4), (left, 3)):
            # To 224.0.0.22, time to live 1, Router Alert, one record.
            assert packet[16:20] == socket.inet_aton("224.0.0.22")
            assert packet[8] == 1
            assert packet[20:24] == b"\x94\x04\0\0"
            assert packet[24] == 0x22
            assert packet[32:36] == bytes((record, 0, 0, 0))
            assert packet[36:40] == socket.inet_aton(GROUP)


def test_datagrams_to_a_group():
    with stack_bed() as bed, bed.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        with bed.client.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with kernel:
            for sock, address in ((ours, HOST), (kernel, KERNEL)):
                sock.bind(("", PORT))
                sock.settimeout(10)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership(GROUP, address))
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            assert GROUP in groups_of_the_kernel(bed)
            ours.sendto(b"from the stack", (GROUP, PORT))
            assert kernel.recvfrom(100) == (b"from the stack", (HOST, PORT))
            kernel.sendto(b"from the kernel", (GROUP, PORT))
            assert ours.recvfrom(100) == (b"from the kernel", (KERNEL, PORT))
            # Nobody there is in this one.
            kernel.sendto(b"x", ("239.7.7.8", PORT))
            ours.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership(GROUP, HOST))
            kernel.sendto(b"x", (GROUP, PORT))
            kernel.sendto(b"only this", (HOST, PORT))
            assert ours.recv(100) == b"only this"


def test_broadcast_each_way():
    with stack_bed() as bed, bed.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        with bed.client.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with kernel:
            for sock in (ours, kernel):
                sock.bind(("", PORT))
                sock.settimeout(10)
                with pytest.raises(PermissionError):
                    sock.sendto(b"x", ("10.77.0.255", PORT))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            ours.sendto(b"from the stack", ("10.77.0.255", PORT))
            assert kernel.recvfrom(100) == (b"from the stack", (HOST, PORT))
            kernel.sendto(b"from the kernel", ("10.77.0.255", PORT))
            assert (b"from the kernel", (KERNEL, PORT)) in [ours.recvfrom(100) for _ in range(2)]


@netns.requires_program("ping")
def test_the_kernel_learns_the_stacks_address():
    with stack_bed() as bed:
        bed.client.run("ping", "-c1", "-W2", HOST)
        assert f"{HOST} dev {DEVICE} lladdr {MAC}" in bed.client.run("ip", "neigh").stdout
        # And forgets a host that has left.
        bed.stack.remove_device("eth0")
        bed.client.run("ip", "neigh", "flush", "all")
        bed.client.run("ping", "-c1", "-W1", HOST, check=False)
        assert MAC not in bed.client.run("ip", "neigh").stdout


def test_udp_lite_with_coverage_both_ways():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136).close()
    except OSError:
        pytest.skip("this kernel has no UDP-Lite")
    with stack_bed() as bed:
        with bed.client.entered():
            kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)
        with kernel, bed.stack.socket(socket.AF_INET, socket.SOCK_DGRAM, 136) as ours:
            kernel.bind((KERNEL, PORT))
            ours.bind((HOST, PORT))
            for coverage in (0, 8, 9, 20, 2000):
                for one, other, to in ((ours, kernel, KERNEL), (kernel, ours, HOST)):
                    one.setsockopt(136, 10, coverage)
                    other.settimeout(10)
                    for size in (0, 1, 100, 1473):
                        one.sendto(b"u" * size, (to, PORT))
                        assert other.recv(2000) == b"u" * size
            ours.setsockopt(136, 11, 100)
            kernel.setsockopt(136, 10, 50)
            kernel.sendto(bytes(200), (HOST, PORT))
            kernel.setsockopt(136, 10, 100)
            kernel.sendto(b"x" * 200, (HOST, PORT))
            assert ours.recv(2000) == b"x" * 200
        assert bed.stack.mib["UdpLite"]["InErrors"] == 1
        assert bed.stack.mib["UdpLite"]["InCsumErrors"] == 0
