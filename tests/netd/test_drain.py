"""What a stack still has to send is sent before its end; and one that can't send is not waited for without end."""

from __future__ import annotations

import socket
import threading
import time

import usernet
from usernet import drivers
from usernet.netd.drain import drain, unsettled


def test_all_is_sent_and_acknowledged():
    near, far = drivers.veth(delay=0.02, rate=50e6, seed=1)
    got = bytearray()
    with usernet.Stack("near") as here, usernet.Stack("far") as there:
        here.add_device(near, "eth0", "10.0.0.1/24")
        there.add_device(far, "eth0", "10.0.0.2/24")
        listener = there.socket()
        listener.bind(("", 9))
        listener.listen()

        def take() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(65536):
                    got.extend(data)

        thread = threading.Thread(target=take)
        thread.start()
        with here.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
            sock.connect(("10.0.0.2", 9))
            sock.sendall(bytes(300_000))
        assert unsettled(here) == 1
        assert drain(here, 20)
        thread.join()
        assert len(got) == 300_000
        listener.close()


def test_one_who_does_not_answer_is_given_up():
    near, far = drivers.veth()
    with usernet.Stack("near") as here, usernet.Stack("far") as there:
        here.add_device(near, "eth0", "10.0.0.1/24")
        there.add_device(far, "eth0", "10.0.0.2/24")
        with there.socket() as listener, here.socket() as sock:
            listener.bind(("", 9))
            listener.listen()
            sock.connect(("10.0.0.2", 9))
            there.set_down("eth0")
            sock.sendall(b"never")
        began = time.monotonic()
        assert not drain(here, 0.1)
        assert time.monotonic() - began < 5
        assert not drain(here, 60, lambda: True)
        assert unsettled(here) == 1
