"""Two workers on two queues of a TAP against one on one: bulk TCP in 16 streams to the stack, without offload.

    python bench/workers.py [--seconds S] [--rounds N] [--build B] [--quick]

The kernel sends; each worker reads what its queue's connections bring, by epoll, 64 KiB a call. Printed: what came in
all, and the CPU time of all workers for each gigabit; ratios to one worker in the same round. More throughput can be
expected only where there are cores for the workers and the kernel that sends. Needs root (namespaces, TAP).
"""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from typing import Any

import _net as net
import _report as report
import streams

import usernet
from usernet import drivers

PORT = 5001
STREAMS = 16


def measure(seconds: float, queues: int) -> report.Figures:
    """Gbit/s, and CPU ms of a gigabit, with so many workers."""
    results = get_context("fork").SimpleQueue()

    def serve(stack: usernet.Stack, number: int) -> None:
        """Read from every connection until all are over; what was read, and when and for how much CPU time."""
        with stack.socket() as listener:
            listener.bind(("", PORT))
            listener.listen(STREAMS)
            listener.setblocking(False)
            epoll = stack.epoll()
            epoll.register(listener, 1)
            buffer = bytearray(65536)
            count = 0
            over = time.monotonic() + seconds + 3
            begin = last = 0.0
            cpu = time.process_time()
            opened: set[Any] = set()
            while time.monotonic() < over and (opened or not count):
                for sock, _ in epoll.poll(0.2):
                    if sock is listener:
                        connection, _ = listener.accept()
                        connection.setblocking(False)
                        epoll.register(connection, 1)
                        opened.add(connection)
                        begin = begin or time.monotonic()
                        continue
                    try:
                        n = sock.recv_into(buffer)
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        n = 0
                    count += n
                    last = time.monotonic()
                    if not n:
                        epoll.unregister(sock)
                        opened.discard(sock)
                        sock.close()
            results.put((count * 8, begin, last, time.process_time() - cpu))
            epoll.close()

    with net.namespace("workers") as name:
        # A thread of the host's would do part of the one worker's work unseen.
        device = drivers.Tap("dev0", offload=False, threaded=False, address="10.77.0.1/24", netns=name, queues=queues)
        net.use_cubic(name, "10.77.0.0/24", "dev0")
        with usernet.workers(device, serve, "10.77.0.2/24") as group:
            time.sleep(1.0)
            sender = net.peer(name, streams.KERNEL_SEND, "10.77.0.2", str(PORT), str(STREAMS), str(seconds))
            net.answer(sender, seconds + 60)
            found = [results.get() for _ in group.processes]
    bits = sum(entry[0] for entry in found)
    begin = min(entry[1] for entry in found if entry[0])
    last = max(entry[2] for entry in found)
    return bits / (last - begin) / 1e9, sum(entry[3] for entry in found) * 1e3 / (bits / 1e9)


BENCH = report.Bench(
    what="bulk TCP, 16 streams, without offload",
    units=[("Gbit/s", ".2f"), ("CPU ms a Gbit", ".0f")],
    groups=[
        [
            report.Row("one worker, one queue", lambda seconds: measure(seconds, 1)),
            report.Row("two workers, two queues", lambda seconds: measure(seconds, 2)),
        ]
    ],
    setting=f"{os.cpu_count()} cores, MTU 1500, CUBIC on both ends; the host without threads of its own (`threaded`).",
    ratios=[report.Ratio("throughput of one's"), report.Ratio("CPU time of one's", unit=1)],
    seconds=2.0,
)

if __name__ == "__main__":
    report.main(__doc__, BENCH, net.prepare)
