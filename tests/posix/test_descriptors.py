"""Streams that are real descriptors: what works on the kernel's sockets by their descriptor works on them."""

from __future__ import annotations

import asyncio
import datetime
import errno
import http.server
import os
import select
import selectors
import socket as standard
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import usernet.socket as socket
from tests.posix.channel.conftest import mask
from tests.support.stacks import until
from usernet.drivers import veth
from usernet.posix import patched, use, using
from usernet.posix.channel.channel import BY_INODE, OWN_ENDS
from usernet.posix.descriptor import DescriptorSocket
from usernet.runner import close_process_runner
from usernet.stack import Stack

HERE, THERE = "10.0.0.1", "10.0.0.2"
BLOB = bytes(range(256)) * 4096


class Net:
    """Two hosts: `here`, the process's, and `there`."""

    def __init__(self, here: Stack, there: Stack) -> None:
        self.here = here
        self.there = there

    def server(self, port: int, *, descriptors: bool = True) -> Any:
        with using(self.there, descriptors=descriptors):
            listener = socket.socket()
        listener.settimeout(20)
        listener.bind(("", port))
        listener.listen()
        return listener

    def pair(self, port: int = 7000) -> tuple[Any, Any]:
        """A connection: both ends."""
        with self.server(port) as listener:
            one = socket.create_connection((THERE, port), timeout=20)
            two, _ = listener.accept()
        two.settimeout(20)
        return one, two


def held(stack: Stack) -> list[Any]:
    """The sockets that someone holds."""
    return [sk for sk in stack.sockets() if not sk.dead]


@pytest.fixture
def net() -> Iterator[Net]:
    left, right = veth()
    with Stack("here") as here, Stack("there") as there:
        here.add_device(left, "eth0", f"{HERE}/24")
        there.add_device(right, "eth0", f"{THERE}/24")
        use(here, descriptors=True)
        try:
            yield Net(here, there)
        finally:
            use(None)
        until(lambda: not held(here) + held(there), "a socket is still held")
        until(lambda: not OWN_ENDS, "a channel is left")
    assert not BY_INODE
    close_process_runner()


@contextmanager
def thread(function: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Run `function` beside the `with` block; what it raises is raised at the end."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            function(*args)
        except BaseException as problem:
            problems.append(problem)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield
    finally:
        worker.join(30)
    assert not worker.is_alive()
    if problems:
        raise problems[0]


def exactly(sock: Any, size: int) -> bytes:
    """`size` bytes. (Under a time-out MSG_WAITALL may give fewer.)"""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more
        data += more
    return data


def echo_once(listener: Any) -> None:
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


# -- what it is


def test_it_is_a_standard_socket_and_a_dropins(net: Net) -> None:
    with socket.socket() as sock:
        assert isinstance(sock, DescriptorSocket)
        assert isinstance(sock, standard.socket)
        assert isinstance(sock, socket.socket)
        assert (sock.family, sock.type, sock.proto) == (standard.AF_INET, standard.SOCK_STREAM, 0)
        assert "usernet.socket" in repr(sock) and f"fd={sock.fileno()}" in repr(sock)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert not isinstance(datagrams, DescriptorSocket)
    with using(net.here), socket.socket() as plain:
        assert not isinstance(plain, DescriptorSocket)
    with pytest.raises(OSError, match="not supported"):
        socket.socket(socket.AF_INET6)


def test_addresses_and_options_are_the_stacks(net: Net) -> None:
    one, two = net.pair()
    with one, two:
        assert one.getpeername() == (THERE, 7000)
        assert one.getsockname() == two.getpeername()
        assert one.getsockname()[0] == HERE
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert info[0] == 1
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 3
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50000))
        one.settimeout(None)
        with pytest.raises(BlockingIOError):
            one.recv(1)


def test_every_way_to_move_data(net: Net, tmp_path: Path) -> None:
    one, two = net.pair()
    with one, two:
        assert one.send(b"send") == 4
        assert two.recv(10) == b"send"
        one.sendmsg([b"send", b"msg"])
        assert two.recvmsg(10) == (b"sendmsg", [], 0, None)
        assert one.sendto(b"sendto", (HERE, 9)) == 6
        assert two.recvfrom(10) == (b"sendto", None)
        buffer = bytearray(10)
        one.sendall(b"into")
        assert two.recv_into(buffer) == 4
        one.sendall(b"more")
        assert two.recvmsg_into([buffer])[0] == 4
        one.sendall(b"peek")
        assert two.recv(2, socket.MSG_PEEK) == b"pe"
        assert two.recv(4, socket.MSG_WAITALL) == b"peek"
        assert os.write(one.fileno(), b"write") == 5
        assert select.select([two], [], [], 20)[0] == [two]
        assert os.read(two.fileno(), 10) == b"write"
        with one.makefile("rw") as file:
            file.write("line\n")
            file.flush()
            assert two.recv(10) == b"line\n"
        path = tmp_path / "file"
        path.write_bytes(BLOB)
        with path.open("rb") as source, thread(lambda: one.sendfile(source)):
            got = b""
            while len(got) < len(BLOB):
                got += two.recv(1 << 18)
        assert got == BLOB
        with path.open("rb") as source:
            assert os.sendfile(one.fileno(), source.fileno(), 0, 1000) == 1000
        assert exactly(two, 1000) == BLOB[:1000]


def test_calls_that_send_come_behind_what_was_written(net: Net) -> None:
    one, two = net.pair()
    with one, two:
        for _ in range(20):
            one.sendall(b"written")
            one.send(b"corked", socket.MSG_MORE)
            one.sendall(b".")
            assert exactly(two, 14) == b"writtencorked."
        one.sendall(b"before")
        one.send(b"!", socket.MSG_OOB)
        until(lambda: mask(two.fileno()) & select.POLLPRI)
        assert two.recv(1, socket.MSG_OOB) == b"!"
        assert two.recv(6) == b"before"


def test_before_there_is_a_connection(net: Net) -> None:
    with socket.socket() as sock:
        for call in (lambda: sock.recv(1), lambda: sock.getpeername(), lambda: sock.shutdown(socket.SHUT_WR)):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(BrokenPipeError):
            sock.send(b"x")
        sock.setblocking(False)
        sock.listen()
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_a_connection_that_is_refused_and_then_one_that_is_not(net: Net) -> None:
    with net.server(7001) as listener, socket.socket() as sock:
        with pytest.raises(ConnectionRefusedError):
            sock.connect((THERE, 7002))
        sock.setblocking(False)
        assert sock.connect_ex((THERE, 7002)) == errno.EINPROGRESS
        until(lambda: mask(sock.fileno()))
        assert mask(sock.fileno()) & (select.POLLERR | select.POLLHUP) == select.POLLERR | select.POLLHUP
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        fd = sock.fileno()
        sock.settimeout(10)
        assert sock.connect_ex((THERE, 7001)) == errno.ECONNABORTED  # as Linux: it tells of the attempt before
        sock.connect((THERE, 7001))
        assert sock.fileno() == fd
        connection, _ = listener.accept()
        with connection:
            sock.sendall(b"at last")
            assert connection.recv(100) == b"at last"


def test_a_time_out_of_connect_and_of_data(net: Net) -> None:
    net.here.add_neighbour("eth0", "10.0.0.9", "02:00:00:00:00:99")
    with socket.socket() as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.connect(("10.0.0.9", 80))
        assert mask(sock.fileno()) == 0
    one, two = net.pair()
    with one, two:
        one.settimeout(0.05)
        with pytest.raises(TimeoutError):
            one.recv(1)
        with pytest.raises(TimeoutError):
            one.sendall(BLOB * 100)


def test_close_lets_go_at_once(net: Net) -> None:
    for _ in range(3):
        with socket.socket() as sock:
            sock.bind(("", 7100))
            sock.listen()
        assert all(sk.dead for sk in net.here.sockets())
    one, two = net.pair()
    two.close()
    one.close()
    until(lambda: all(sk.dead for sk in net.here.sockets()))


def test_dup_and_detach(net: Net) -> None:
    one, two = net.pair()
    copy = one.dup()
    one.close()
    copy.sendall(b"copy")
    assert two.recv(10) == b"copy"
    assert copy.getpeername() == (THERE, 7000)
    fd = copy.detach()
    os.write(fd, b"detached")
    assert two.recv(10) == b"detached"
    again = socket.socket(fileno=fd)
    assert isinstance(again, DescriptorSocket)
    assert again.getpeername() == (THERE, 7000)
    again.sendall(b"again")
    assert two.recv(10) == b"again"
    again.close()
    assert two.recv(10) == b""
    two.close()


def test_a_port_is_free_once_its_descriptor_was_closed(net: Net) -> None:
    listener: Any = socket.socket()
    listener.bind(("", 7001))
    listener.listen()
    channel = listener._channel
    fd = listener.detach()
    # The close is told to nobody, as if to a thread that has not come to act on it.
    channel.loop.trampoline.unwatch(channel._own_fd)
    os.close(fd)
    with socket.socket() as again:
        again.bind(("", 7001))
    assert channel.over


def test_reset_and_linger(net: Net) -> None:
    one, two = net.pair()
    two.sendall(b"last")
    two.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: mask(one.fileno()) & select.POLLIN)
    two.close()
    until(lambda: mask(one.fileno()) & select.POLLERR)
    assert one.recv(10) == b"last"
    with pytest.raises(ConnectionResetError):
        one.recv(10)
    with pytest.raises(BrokenPipeError):
        one.send(b"x")
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    one.close()
    one, two = net.pair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 10))
    one.sendall(b"x" * 1000)
    one.close()
    assert two.recv(2000) == b"x" * 1000
    two.close()


def test_garbage_is_closed(net: Net) -> None:
    sock = socket.socket()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del sock
    until(lambda: not net.here.sockets())


# -- waiting for many


@pytest.mark.parametrize("selector", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
def test_selectors(net: Net, selector: type[selectors.BaseSelector]) -> None:
    connection: Any
    with net.server(7200) as listener, selector() as chosen, socket.socket() as sock:
        chosen.register(listener, selectors.EVENT_READ)
        assert chosen.select(0) == []
        sock.setblocking(False)
        assert sock.connect_ex((THERE, 7200)) == errno.EINPROGRESS
        key, events = chosen.select(10)[0]
        assert (key.fileobj, events) == (listener, selectors.EVENT_READ)
        connection, _ = listener.accept()
        assert chosen.select(0) == []
        chosen.register(sock, selectors.EVENT_WRITE)
        assert chosen.select(10)[0][0].fileobj is sock
        with connection:
            chosen.register(connection, selectors.EVENT_READ)
            chosen.unregister(sock)
            sock.send(b"x")
            assert [key.fileobj for key, _ in chosen.select(10)] == [connection]
            assert connection.recv(10) == b"x"
            assert chosen.select(0) == []


def test_asyncio_streams(net: Net) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def fetch(size: int) -> bytes:
        reader, writer = await asyncio.open_connection(THERE, 7300)
        writer.write(BLOB[:size])
        writer.write_eof()
        got = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        return got

    async def main() -> None:
        with using(net.there, descriptors=True):
            listener = socket.create_server(("", 7300))
        server = await asyncio.start_server(serve, sock=listener)
        sizes = [1, 10, 1000, 100_000, len(BLOB)]
        got = await asyncio.gather(*(fetch(size) for size in sizes))
        assert [len(each) for each in got] == sizes
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(THERE, 7301)
        server.close()
        await server.wait_closed()

    with patched(net.here, descriptors=True):
        asyncio.run(main())


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `THERE`, with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, THERE)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(THERE))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    return ssl.create_default_context(cafile=str(certificate)), server


@pytest.mark.parametrize("early", [False, True], ids=["connect-then-wrap", "wrap-then-connect"])
def test_tls_client_and_server(net: Net, certificate: Path, early: bool) -> None:
    client, server = contexts(certificate)
    with net.server(7443) as plain, server.wrap_socket(plain, server_side=True) as listener:
        with thread(echo_once, listener):
            sock = socket.socket()
            sock.settimeout(20)
            if early:
                wrapped = client.wrap_socket(sock, server_hostname=THERE)
                wrapped.connect((THERE, 7443))
            else:
                sock.connect((THERE, 7443))
                wrapped = client.wrap_socket(sock, server_hostname=THERE)
            with wrapped:
                assert wrapped.getpeername() == (THERE, 7443)
                assert wrapped.version() == "TLSv1.3"
                wrapped.sendall(BLOB[:300_000])
                got = b""
                while len(got) < 300_000:
                    got += wrapped.recv(65536)
                assert got == BLOB[:300_000]


def test_asyncio_tls(net: Net, certificate: Path) -> None:
    client, server = contexts(certificate)
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        served.set()

    async def main() -> None:
        with using(net.there, descriptors=True):
            listener = socket.create_server(("", 7444))
        async with await asyncio.start_server(serve, sock=listener, ssl=server):
            reader, writer = await asyncio.open_connection(THERE, 7444, ssl=client)
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()
            await served.wait()

    with patched(net.here, descriptors=True):
        asyncio.run(main())


# -- HTTP by the libraries that people use


class Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.path.encode() * 10_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(net: Net, port: int, context: ssl.SSLContext | None = None) -> Iterator[None]:
    """An http.server on the other stack."""
    with patched(net.there, descriptors=True):
        server = http.server.ThreadingHTTPServer(("", port), Files)
    server.daemon_threads = False
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    worker = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    worker.start()
    try:
        yield
    finally:
        server.shutdown()
        worker.join()
        server.server_close()


def test_urllib(net: Net) -> None:
    with serving(net, 80), patched(net.here, descriptors=True):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{THERE}/page", timeout=20) as answer:
            assert answer.read() == b"/page" * 10_000


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_requests(net: Net, certificate: Path, scheme: str) -> None:
    requests = pytest.importorskip("requests")
    context = contexts(certificate)[1] if scheme == "https" else None

    def fetch() -> None:
        # Its pool lives as long as any answer does, so all of them end with this function.
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(certificate)
            for _ in range(3):
                answer = session.get(f"{scheme}://{THERE}:8443/x", timeout=20)
                assert (answer.status_code, answer.content) == (200, b"/x" * 10_000)
            assert session.post(f"{scheme}://{THERE}:8443/", data=BLOB, timeout=20).content == BLOB

    with serving(net, 8443, context), patched(net.here, descriptors=True):
        fetch()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_httpx(net: Net, certificate: Path, scheme: str) -> None:
    httpx = pytest.importorskip("httpx")
    client_context, server_context = contexts(certificate)
    context = server_context if scheme == "https" else None
    with (
        serving(net, 8444, context),
        patched(net.here, descriptors=True),
        httpx.Client(verify=client_context, trust_env=False, timeout=20) as client,
    ):
        for _ in range(3):
            answer = client.get(f"{scheme}://{THERE}:8444/y")
            assert (answer.status_code, answer.content) == (200, b"/y" * 10_000)
        assert client.post(f"{scheme}://{THERE}:8444/", content=BLOB).content == BLOB


def test_httpx_asynchronous(net: Net) -> None:
    httpx = pytest.importorskip("httpx")

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            answers = await asyncio.gather(*(client.get(f"http://{THERE}:8445/{index}") for index in range(10)))
        assert [answer.content for answer in answers] == [b"/%d" % index * 10_000 for index in range(10)]

    with serving(net, 8445), patched(net.here, descriptors=True):
        asyncio.run(main())


# -- other processes


def test_a_child_process_has_it_as_stdin_and_stdout(net: Net) -> None:
    one, two = net.pair()
    program = "import sys; sys.stdout.write(sys.stdin.read().upper())"
    with one, two:
        child = subprocess.Popen([sys.executable, "-c", program], stdin=one, stdout=one)
        one.close()
        two.sendall(b"hello " * 10_000)
        two.shutdown(socket.SHUT_WR)
        got = b""
        while data := two.recv(65536):
            got += data
        assert got == b"HELLO " * 10_000
        assert child.wait(20) == 0


def test_a_forked_child_goes_on_with_its_copy(net: Net) -> None:
    one, two = net.pair()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            two.close()
            data = one.recv(100)
            one.sendall(data.upper())
            try:
                one.getpeername()
            except RuntimeError:
                status = 0  # the stack is the parent's
            one.close()
        finally:
            os._exit(status)
    one.close()
    two.sendall(b"to the child")
    assert two.recv(100) == b"TO THE CHILD"
    assert two.recv(100) == b""
    assert os.waitpid(pid, 0)[1] == 0
    two.close()


def test_many_at_once(net: Net) -> None:
    with net.server(7500) as listener:
        listener.listen(256)
        clients = [socket.create_connection((THERE, 7500), timeout=20) for _ in range(200)]
        servers = [listener.accept()[0] for _ in clients]
        for index, client in enumerate(clients):
            client.sendall(b"%d" % index)
        for server in servers:
            server.settimeout(20)
            server.sendall(server.recv(100) * 2)
        assert [client.recv(100) for client in clients] == [b"%d%d" % (index, index) for index in range(200)]
        for each in (*clients, *servers):
            each.close()


def test_a_stack_that_nothing_drives_is_said_so() -> None:
    use(Stack("idle"), descriptors=True)
    try:
        with pytest.raises(RuntimeError, match="start it"):
            socket.socket()
    finally:
        use(None)
