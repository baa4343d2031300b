"""The main job: a large file by HTTP, from the stack to curl and from a kernel's server to the stack.

Both ends are programs people use: curl and `python3 -m http.server` on the kernel's sockets, the standard library's
http.server and urllib on the stack's, put there by `usernet.patched`.
"""

from __future__ import annotations

import functools
import hashlib
import random
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

import usernet
from tests.interop.bed import HOST, KERNEL, Bed, stack_bed
from tests.support import netns

pytestmark = [*netns.INTEROP, netns.requires_program("curl")]

MB: Final = 1_000_000
#: What `Impair` does each way; on a link without delay a packet to be reordered is held back 1 ms.
LOSSY: Final = {"loss": 0.02, "reorder": 0.02, "seed": 20}

CASES: Final = [
    pytest.param(20 * MB, {}, id="20MB"),
    pytest.param(20 * MB, {"offload": False}, id="20MB-plain"),
    pytest.param(20 * MB, {"tun": True}, id="20MB-tun"),
    pytest.param(20 * MB, {"impair": LOSSY}, id="20MB-lossy"),
    pytest.param(200 * MB, {}, id="200MB", marks=pytest.mark.slow),
    pytest.param(200 * MB, {"impair": LOSSY}, id="200MB-lossy", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


class Quiet(SimpleHTTPRequestHandler):
    """The standard handler, without its log on standard error."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(directory: Path) -> Iterator[None]:
    """The standard library's server, on port 80 of whatever `socket` is at present."""
    server = ThreadingHTTPServer(("", 80), functools.partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_file(path: Path, size: int) -> str:
    """Write `size` random bytes and return their SHA-256."""
    digest = hashlib.sha256()
    source = random.Random(size)
    with path.open("wb") as file:
        while size:
            block = source.randbytes(min(size, MB))
            file.write(block)
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_impaired(bed: Bed, options: dict[str, Any]) -> None:
    """The link was as bad as it was meant to be, or not at all."""
    dropped = {reason.name: count for reason, count in bed.stack.drops.items()}
    assert (dropped.get("IMPAIRED", 0) > 100) == ("impair" in options)


@pytest.mark.parametrize(("size", "options"), CASES)
def test_curl_fetches_a_file_from_the_stack(tmp_path, size, options):
    (tmp_path / "served").mkdir()
    wanted = make_file(tmp_path / "served" / "file", size)
    with stack_bed(**options) as bed, usernet.patched(bed.stack):
        with serving(tmp_path / "served"):
            got = bed.client.run(
                "curl", "-sS", "--fail", "-o", str(tmp_path / "got"), "-w", "%{http_code} %{size_download}",
                f"http://{HOST}/file", seconds=500,
            )  # fmt: skip
        assert got.stdout == f"200 {size}"
        assert digest_of(tmp_path / "got") == wanted
        check_impaired(bed, options)


@pytest.mark.parametrize(("size", "options"), CASES)
def test_the_stack_fetches_a_file_from_a_kernel_server(tmp_path, size, options):
    wanted = make_file(tmp_path / "file", size)
    with stack_bed(**options) as bed, usernet.patched(bed.stack):
        bed.client.popen(sys.executable, "-m", "http.server", "80", "--bind", KERNEL, "-d", str(tmp_path))
        netns.wait_until(lambda: f"{KERNEL}:80 " in bed.client.run("ss", "-ltn").stdout, "the server to listen")
        digest = hashlib.sha256()
        count = 0
        with urllib.request.urlopen(f"http://{KERNEL}/file", timeout=60) as answer:
            assert answer.status == 200
            while block := answer.read(1 << 16):
                digest.update(block)
                count += len(block)
        assert count == size
        assert digest.hexdigest() == wanted
        check_impaired(bed, options)


def test_a_file_is_uploaded_to_the_stack(tmp_path):
    received: list[str] = []

    class Receiver(Quiet):
        def do_PUT(self) -> None:
            left = int(self.headers["Content-Length"])
            digest = hashlib.sha256()
            while left:
                block = self.rfile.read(min(left, 1 << 16))
                digest.update(block)
                left -= len(block)
            received.append(digest.hexdigest())
            self.send_response(201)
            self.end_headers()

    wanted = make_file(tmp_path / "file", 20 * MB)
    with stack_bed() as bed, usernet.patched(bed.stack):
        server = ThreadingHTTPServer(("", 80), Receiver)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            # With "Expect: 100-continue", as curl sends it for a large body.
            bed.client.run("curl", "-sS", "--fail", "-T", str(tmp_path / "file"), f"http://{HOST}/file")
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        assert received == [wanted]
