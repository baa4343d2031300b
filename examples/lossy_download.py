"""How long does a download take on a bad line? Measured on virtual time: the answer is the same on every machine.

    python examples/lossy_download.py
"""

from __future__ import annotations

import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import usernet

SIZE = 500_000


class Page(BaseHTTPRequestHandler):
    """A page of SIZE bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        self.wfile.write(bytes(SIZE))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def download(loss: float, control: str) -> float:
    """Seconds that the page takes over 20 Mbit/s and 25 ms each way, where a fraction `loss` of the packets is lost."""
    with usernet.Lab(seed=7) as lab:
        client, server = lab.hosts(2, delay=0.025, rate=20e6, loss=loss)
        server.sysctl["net.ipv4.tcp_congestion_control"] = control

        with usernet.patched(server):
            pages = HTTPServer(("", 80), Page)
        lab.serve(pages)

        def fetch() -> float:
            began = lab.now
            with usernet.patched(client), urllib.request.urlopen("http://10.0.0.2/") as answer:
                assert len(answer.read()) == SIZE
            return lab.now - began

        seconds: float = lab.join(lab.spawn(fetch))
        pages.server_close()
        return seconds


def main() -> None:
    print("loss     cubic       bbr")
    for loss in (0, 0.01, 0.05, 0.1):
        print(f"{loss:4.0%} {download(loss, 'cubic'):7.2f} s {download(loss, 'bbr'):7.2f} s")


if __name__ == "__main__":
    main()
