"""Signed connections between the stack and the kernel, either of them listening: TCP MD5, and TCP-AO with every
algorithm the kernel has. Skipped where the kernel was built without (CONFIG_TCP_MD5SIG, CONFIG_TCP_AO).
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from tests.interop.bed import HOST, KERNEL, Bed, stack_bed
from tests.interop.test_tcp import DEVICES, PORT, tcp_info
from tests.support import netns
from tests.transport.tcp.keys import TCP_AO_ADD_KEY, TCP_AO_INFO, TCP_MD5SIG, ao_add, ao_info, md5sig

pytestmark = netns.INTEROP

KEY: Final = b"shared secret"


def _kernel_takes(option: int, value: bytes) -> bool:
    """Whether the kernel knows the option. What it says of the value is another matter."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError as failure:
            return failure.errno not in (errno.ENOPROTOOPT, errno.ENOENT)
    return True


MD5: Final = pytest.mark.skipif(
    not _kernel_takes(TCP_MD5SIG, md5sig("127.0.0.1", KEY)), reason="the kernel has no TCP_MD5SIG"
)


def ao(algorithm: str) -> Any:
    """A parameter, skipped where the kernel has no TCP-AO or not this algorithm."""
    there = _kernel_takes(TCP_AO_ADD_KEY, ao_add("127.0.0.1", KEY, alg=algorithm))
    return pytest.param(
        algorithm,
        id=algorithm,
        marks=pytest.mark.skipif(not there, reason=f"the kernel has no TCP-AO with {algorithm} (CONFIG_TCP_AO)"),
    )


AO: Final = [ao(name) for name in ("hmac(sha1)", "cmac(aes128)", "hmac(sha256)", "hmac(sha512)")]


@contextmanager
def sockets(bed: Bed, *, passive: bool, option: int, ours: bytes, kernels: bytes) -> Iterator[tuple[Any, Any, Any]]:
    """(listener, connecting socket, where to) with their keys; passive: the stack listens."""
    with ExitStack() as to_close:
        with bed.client.entered():
            kernel = to_close.enter_context(socket.socket())
        stacks: Any = to_close.enter_context(bed.stack.socket())
        for sock, value in ((kernel, kernels), (stacks, ours)):
            sock.settimeout(20)
            if value:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        listener, client = (stacks, kernel) if passive else (kernel, stacks)
        address = (HOST if passive else KERNEL, PORT)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        yield listener, client, address


def both_ways(one: Any, other: Any, size: int = 3_000_000) -> None:
    """Send a few megabytes each way at once, and compare."""
    data = bytes(range(251)) * (size // 251)
    failures: list[BaseException] = []

    def send(sock: Any) -> None:
        try:
            sock.sendall(data)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=send, args=(sock,)) for sock in (one, other)]
    for thread in threads:
        thread.start()
    for sock in (other, one):
        got = bytearray()
        while len(got) < len(data):
            part = sock.recv(1 << 18)
            assert part, f"the end after {len(got)} bytes"
            got += part
        assert got == data
    for thread in threads:
        thread.join(20)
    assert not failures


@MD5
@pytest.mark.parametrize("passive", [True, False], ids=["kernel-connects", "stack-connects"])
@pytest.mark.parametrize("device", DEVICES)
def test_md5(device: dict[str, Any], passive: bool):
    with stack_bed(**device) as bed:
        ours, kernels = md5sig(KERNEL, KEY), md5sig(HOST, KEY)
        with sockets(bed, passive=passive, option=TCP_MD5SIG, ours=ours, kernels=kernels) as (listener, client, where):
            client.connect(where)
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(20)
                both_ways(client, accepted)
                told = tcp_info(client), tcp_info(accepted)
                # SACK, and no time stamps; both make segments of the same size.
                assert told[0]["options"] == told[1]["options"] == 2 | 4
                assert told[0]["snd_mss"] == told[1]["snd_mss"] == 1460
        mib = bed.stack.mib["TcpExt"]
        assert mib["TCPMD5Failure"] == mib["TCPMD5NotFound"] == mib["TCPMD5Unexpected"] == 0


@MD5
@pytest.mark.parametrize("passive", [True, False], ids=["kernel-connects", "stack-connects"])
def test_md5_with_loss(passive: bool):
    with stack_bed(impair={"loss": 0.02, "seed": 5}) as bed:
        ours, kernels = md5sig(KERNEL, KEY), md5sig(HOST, KEY)
        with sockets(bed, passive=passive, option=TCP_MD5SIG, ours=ours, kernels=kernels) as (listener, client, where):
            client.connect(where)
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(30)
                both_ways(client, accepted, 1_000_000)
        assert bed.stack.mib["TcpExt"]["TCPMD5Failure"] == 0


@MD5
@pytest.mark.parametrize("who", ["stack", "kernel"])
def test_an_abort_is_believed(who: str):
    with stack_bed() as bed:
        ours, kernels = md5sig(KERNEL, KEY), md5sig(HOST, KEY)
        with sockets(bed, passive=True, option=TCP_MD5SIG, ours=ours, kernels=kernels) as (listener, client, where):
            client.connect(where)
            accepted, _ = listener.accept()
            accepted.settimeout(20)
            aborts, hears = (accepted, client) if who == "stack" else (client, accepted)
            aborts.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            aborts.close()
            with pytest.raises(ConnectionResetError):
                hears.recv(1)
            accepted.close()


@MD5
@pytest.mark.parametrize("passive", [True, False], ids=["kernel-connects", "stack-connects"])
@pytest.mark.parametrize(
    ("ours", "kernels"), [(KEY, b"other"), (KEY, b""), (b"", KEY)], ids=["other key", "kernel without", "stack without"]
)
def test_no_connection_without_the_same_key(passive: bool, ours: bytes, kernels: bytes):
    with stack_bed() as bed:
        values = {
            "ours": md5sig(KERNEL, ours) if ours else b"", "kernels": md5sig(HOST, kernels) if kernels else b"",
        }  # fmt: skip
        with sockets(bed, passive=passive, option=TCP_MD5SIG, **values) as (_, client, where):
            client.settimeout(0.7)
            with pytest.raises(TimeoutError):
                client.connect(where)
            if passive:
                counter = "TCPMD5Unexpected" if not ours else "TCPMD5Failure" if kernels else "TCPMD5NotFound"
                assert bed.stack.mib["TcpExt"][counter] >= 1


@MD5
@pytest.mark.parametrize("passive", [True, False], ids=["kernel-connects", "stack-connects"])
def test_either_side_may_close_first_and_its_time_wait_answers(passive: bool):
    with stack_bed(impair={"loss": 0.1, "seed": 3}) as bed:
        ours, kernels = md5sig(KERNEL, KEY), md5sig(HOST, KEY)
        with sockets(bed, passive=passive, option=TCP_MD5SIG, ours=ours, kernels=kernels) as (listener, client, where):
            client.connect(where)
            accepted, _ = listener.accept()
            accepted.settimeout(20)
            client.shutdown(socket.SHUT_WR)
            assert accepted.recv(1) == b""
            accepted.sendall(b"bye")
            accepted.close()
            assert client.recv(10) == b"bye"
            assert client.recv(10) == b""
        assert bed.stack.mib["TcpExt"]["TCPMD5Failure"] == 0


@pytest.mark.parametrize("passive", [True, False], ids=["kernel-connects", "stack-connects"])
@pytest.mark.parametrize("algorithm", AO)
def test_ao(algorithm: str, passive: bool):
    with stack_bed() as bed:
        ours = ao_add(KERNEL, KEY, alg=algorithm, sndid=1, rcvid=2)
        kernels = ao_add(HOST, KEY, alg=algorithm, sndid=2, rcvid=1)
        with sockets(bed, passive=passive, option=TCP_AO_ADD_KEY, ours=ours, kernels=kernels) as found:
            listener, client, where = found
            client.connect(where)
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(20)
                both_ways(client, accepted)
                # A second key, which the stack asks for.
                stacks, kernel = (accepted, client) if passive else (client, accepted)
                stacks.setsockopt(6, TCP_AO_ADD_KEY, ao_add(KERNEL, b"new", alg=algorithm, sndid=3, rcvid=4))
                kernel.setsockopt(6, TCP_AO_ADD_KEY, ao_add(HOST, b"new", alg=algorithm, sndid=4, rcvid=3))
                stacks.setsockopt(6, TCP_AO_INFO, ao_info(3, current=3, rnext=4))
                both_ways(client, accepted, 100_000)
                told = kernel.getsockopt(6, TCP_AO_INFO, 48)
                assert struct.unpack_from("=B", told, 6) == (4,)
        assert bed.stack.mib["TcpExt"]["TCPAOBad"] == bed.stack.mib["TcpExt"]["TCPAOKeyNotFound"] == 0
