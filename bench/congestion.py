"""Congestion controls over one bottleneck, on virtual time: what docs/congestion.md shows, and its pictures.

python bench/congestion.py [--write] [--seconds 60] [--jobs N] [--only alone,against,loss]

The bottleneck: 100 Mbit/s, a round trip of 40 ms, a buffer of one bandwidth-delay product (500 kB), which marks packets
of ECN-capable connections (DCTCP's) from a fifth of that on. Everything follows from the seed, so that two runs give
the same figures. `--write` puts table and pictures into docs/; that takes matplotlib (the extra `plots`). Without it
the table is printed.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import usernet
from usernet.stack import Stack
from usernet.transport.tcp.sock import TcpSock

DOCS = Path(__file__).resolve().parents[1] / "docs"
RATE = 100e6
RTT = 0.040
MSS = 1448
BDP = int(RATE * RTT / 8)
MARK = BDP // 5
STEP = 0.2
"""Seconds between two samples of a picture."""

SETTLE = 0.5
"""The part of a contest that does not count: until the shares have settled."""

CONTROLS = ("reno", "cubic", "bbr", "dctcp")
PAIRS = (("reno", "cubic"), ("reno", "bbr"), ("reno", "dctcp"), ("cubic", "bbr"), ("cubic", "dctcp"), ("bbr", "dctcp"))
LOSSES = (0.0001, 0.001, 0.01)
HEADERS = 14 + 20 + 32
"""Bytes of Ethernet, IPv4 and TCP (with time stamps) around a segment."""

GOODPUT = RATE * MSS / (MSS + HEADERS)
"""What a program can get of the link at most, in bit/s."""


@dataclass(frozen=True)
class Run:
    """One simulation. controls: of the connections, of which the second begins after `stagger` seconds."""

    controls: tuple[str, ...]
    seconds: float
    loss: float = 0.0
    rtt: float = RTT
    stagger: float = 0.0
    skip: float = 0.0
    """Seconds at the start that the mean rate leaves out."""
    seed: int = 1


@dataclass
class Flow:
    """What one connection did: samples by time, and its mean rate (bit/s) after `Run.skip` seconds."""

    control: str
    times: list[float] = field(default_factory=list)
    cwnd: list[int] = field(default_factory=list)
    rtt: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    mean: float = 0.0
    retransmitted: int = 0


class Bulk:
    """`left` sends to `right` without end, by `control`. `received`: bytes that the program at the other end has."""

    def __init__(self, lab: usernet.Lab, left: Stack, right: Stack, control: str, port: int, start: float) -> None:
        self.received = 0
        self.sk: TcpSock | None = None

        def serve() -> None:
            with right.socket() as listener:
                # Woken for a quarter of a megabyte, for the sake of the simulation's speed.
                listener.setsockopt(1, 18, 1 << 18)
                listener.setsockopt(6, 13, control.encode())
                listener.bind(("", port))
                listener.listen()
                connection, _ = listener.accept()
                room = bytearray(1 << 20)
                with connection:
                    while count := connection.recv_into(room):
                        self.received += count

        def send() -> None:
            if start:
                lab.sleep(start)
            with left.socket() as sock:
                sock.setsockopt(6, 13, control.encode())
                sock.connect(("10.0.0.2", port))
                assert sock._socket is not None and isinstance(sock._socket.sk, TcpSock)
                self.sk = sock._socket.sk
                data = bytes(1 << 18)
                while True:
                    sock.sendall(data)

        lab.spawn(serve, daemon=True)
        lab.spawn(send, daemon=True)

    def acked(self) -> int:
        """Bytes that have arrived for sure, whether the program has read them or not."""
        return self.sk.bytes_acked if self.sk is not None else 0


def simulate(run: Run) -> list[Flow]:
    """Run one simulation."""
    gc.set_threshold(100_000)
    buffer = int(RATE * run.rtt / 8)
    with usernet.Lab(seed=run.seed) as lab:
        left, right = lab.hosts(
            2, delay=run.rtt / 2, rate=RATE, loss=run.loss, buffer=buffer, ecn_threshold=buffer // 5, limit=100_000,
            back={"loss": 0.0, "ecn_threshold": 0},
        )  # fmt: skip
        for stack in (left, right):
            # Buffers that are no limit, so that the congestion window is the only one.
            stack.sysctl["net.ipv4.tcp_rmem"] = "4096 8388608 67108864"
            stack.sysctl["net.ipv4.tcp_wmem"] = "4096 8388608 67108864"
        bulks = [
            Bulk(lab, left, right, control, 80 + index, index * run.stagger)
            for index, control in enumerate(run.controls)
        ]
        flows = [Flow(control) for control in run.controls]
        before = [0] * len(bulks)
        skipped = [0] * len(bulks)
        steps = round(run.seconds / STEP)
        for step in range(1, steps + 1):
            now = step * STEP
            lab.run(until=now)
            for index, (bulk, flow) in enumerate(zip(bulks, flows, strict=True)):
                sk = bulk.sk
                if sk is None:
                    continue
                acked = bulk.acked()
                flow.times.append(now)
                flow.cwnd.append(sk.snd_cwnd)
                flow.rtt.append(sk.srtt_us / 8000)
                flow.rates.append((acked - before[index]) * 8 / STEP)
                before[index] = acked
                if now <= run.skip + STEP / 2:
                    skipped[index] = acked
        for bulk, flow, start in zip(bulks, flows, skipped, strict=True):
            flow.mean = (bulk.acked() - start) * 8 / (run.seconds - run.skip)
            flow.retransmitted = bulk.sk.total_retrans if bulk.sk is not None else 0
        return flows


# -- the theory


def reno_law(loss: float, rtt: float) -> float:
    """Reno's mean rate in bit/s: a window of sqrt(3 / 2p) packets (RFC 5681's halving and one packet a round trip, each
    packet acknowledged counting, whether or not it has an acknowledgement of its own: RFC 3465)."""
    return math.sqrt(1.5 / loss) * MSS * 8 / rtt


def cubic_law(loss: float, rtt: float) -> float:
    """CUBIC's mean rate in bit/s: the window of RFC 9438 section 5.2, figure 5, with C = 0.4 and beta = 0.7; but not
    less than Reno's, which the Reno-friendly region grants (section 4.3)."""
    c, beta = 0.4, 0.7
    window: float = (c * (3 + beta) / (4 * (1 - beta))) ** 0.25 * (rtt / loss) ** 0.75
    return max(window * MSS * 8 / rtt, reno_law(loss, rtt))


def ideal(control: str, loss: float, rtt: float, losses: int = 2000) -> float:
    """The mean rate in bit/s of an ideal Reno or CUBIC whose packets are lost by chance, each for itself. The laws are
    those of losses at even distances; by chance some windows grow for long, and the mean is higher."""
    chance = random.Random(1)
    c, beta = 0.4, 0.7 if control == "cubic" else 0.5
    step = rtt / 4
    window, last_max, sent_all, time_all = 10.0, 0.0, 0.0, 0.0
    for _ in range(losses):
        # Fast convergence: below its last maximum a flow gives way to others.
        last_max = window * (1 + beta) / 2 if window < last_max else window
        friendly = window = window * beta
        inflection = (max(last_max - window, 0) / c) ** (1 / 3)
        until, sent, time = chance.expovariate(loss), 0.0, 0.0
        while sent < until:
            sent += window * step / rtt
            time += step
            friendly += 3 * (1 - beta) / (1 + beta) * step / rtt
            curve = c * (time + rtt - inflection) ** 3 + last_max if control == "cubic" else 0.0
            window = max(window, curve, friendly)
        sent_all += sent
        time_all += time
    return sent_all / time_all * MSS * 8


# -- what to run


def alone(seconds: float) -> list[Run]:
    """Each control alone."""
    return [Run((control,), seconds) for control in CONTROLS]


def against(seconds: float) -> list[Run]:
    """Each against each; the second comes when the first has the link."""
    return [Run(pair, seconds, stagger=seconds / 12, skip=seconds * SETTLE) for pair in PAIRS]


def lossy(scale: float) -> list[Run]:
    """Losses by chance: long enough for a hundred of them, where they are rare."""
    runs = []
    for loss in LOSSES:
        seconds = {0.0001: 300, 0.001: 120, 0.01: 60}[loss] * scale
        for control in ("reno", "cubic"):
            runs.append(Run((control,), seconds, loss, skip=seconds / 10, seed=7))
        runs.append(Run(("cubic",), seconds * 2, loss, rtt=0.2, skip=seconds / 5, seed=7))
        runs.append(Run(("bbr",), 60 * scale, loss, skip=6 * scale, seed=7))
    return runs


def _head(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def report(results: dict[Run, list[Flow]]) -> str:
    """The tables, as Markdown."""
    lines: list[str] = []
    singles = [(run, flows[0]) for run, flows in results.items() if len(flows) == 1 and not run.loss]
    if singles:
        lines += _head("alone", "rate", "of the link", "round trip, median", "retransmitted")
        for _, flow in singles:
            median = sorted(flow.rtt[len(flow.rtt) // 4 :])[len(flow.rtt) * 3 // 8]
            lines.append(
                f"| {flow.control} | {flow.mean / 1e6:.1f} Mbit/s | {flow.mean / GOODPUT:.1%} | {median:.1f} ms "
                f"| {flow.retransmitted} |"
            )
    contests = [(run, flows) for run, flows in results.items() if len(flows) > 1]
    if contests:
        lines += ["", *_head("first", "second", "rates", "together, of the link", "fairness")]
        for _, flows in contests:
            rates = [flow.mean for flow in flows]
            fairness = sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))
            lines.append(
                f"| {flows[0].control} | {flows[1].control} | {rates[0] / 1e6:.1f} and {rates[1] / 1e6:.1f} Mbit/s "
                f"| {sum(rates) / GOODPUT:.1%} | {fairness:.2f} |"
            )
    losses = [(run, flows[0]) for run, flows in results.items() if run.loss]
    if losses:
        lines += ["", *_head("control", "round trip", "loss", "rate", "theory", "ratio", "ideal, by chance", "ratio")]
        for run, flow in sorted(losses, key=lambda pair: (pair[0].controls, pair[0].rtt, pair[0].loss)):
            if flow.control == "bbr":
                law, name, chance = GOODPUT, "the link", "| | |"
            else:
                law = min((reno_law if flow.control == "reno" else cubic_law)(run.loss, run.rtt), GOODPUT)
                name = f"{law / 1e6:.2f} Mbit/s"
                best = min(ideal(flow.control, run.loss, run.rtt), GOODPUT)
                chance = f"| {best / 1e6:.2f} Mbit/s | {flow.mean / best:.2f} |"
            lines.append(
                f"| {flow.control} | {run.rtt * 1000:.0f} ms | {run.loss:.2%} | {flow.mean / 1e6:.2f} Mbit/s "
                f"| {name} | {flow.mean / law:.2f} {chance}"
            )
    return "\n".join(lines).strip()


# -- pictures


def draw(results: dict[Run, list[Flow]]) -> None:
    """Draw what was run into docs/pictures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "usernet", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
        "lines.linewidth": 1.0, "path.simplify_threshold": 0.5,
    })  # fmt: skip
    (DOCS / "pictures").mkdir(exist_ok=True)
    singles = [flows for run, flows in results.items() if len(flows) == 1 and not run.loss]
    if singles:
        _panels(singles, "congestion-alone.svg")
    contests = [flows for flows in results.values() if len(flows) > 1]
    if contests:
        _panels(contests, "congestion-against.svg")
    if any(run.loss for run in results):
        _loss_picture(results)


PICTURES = {
    "alone": "each alone: throughput, window and round trip over time",
    "against": "each against each other",
    "loss": "the rate under losses by chance, and the response functions",
}
COLOURS = {"reno": "tab:blue", "cubic": "tab:orange", "bbr": "tab:green", "dctcp": "tab:red"}


def _save(figure: Any, name: str) -> None:
    file = DOCS / "pictures" / name
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    # A tenth of a point is finer than anyone sees, and a third of the file.
    shorter = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\d+\.\d)\d+", r"\1", path[0]), file.read_text())
    file.write_text("\n".join(line.rstrip() for line in shorter.splitlines()) + "\n")


def _panels(columns: Sequence[Sequence[Flow]], name: str) -> None:
    """Throughput, window and round trip over time, a column for each simulation."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        3, len(columns), figsize=(2.6 * len(columns), 5.4), sharex=True, sharey="row", squeeze=False
    )
    for column, flows in enumerate(columns):
        axes[0][column].set_title(" and ".join(flow.control for flow in flows))
        for flow in flows:
            colour = COLOURS.get(flow.control)
            axes[0][column].plot(flow.times, [rate / 1e6 for rate in flow.rates], color=colour)
            axes[1][column].plot(flow.times, flow.cwnd, color=colour)
            axes[2][column].plot(flow.times, flow.rtt, color=colour)
        axes[0][column].axhline(GOODPUT / 1e6, color="grey", linestyle=":", linewidth=0.8)
        axes[1][column].axhline(BDP / (MSS + HEADERS), color="grey", linestyle=":", linewidth=0.8)
        axes[2][column].axhline(RTT * 1000, color="grey", linestyle=":", linewidth=0.8)
        axes[2][column].set_xlabel("seconds")
    for row, label in enumerate(("Mbit/s", "cwnd, packets", "round trip, ms")):
        axes[row][0].set_ylabel(label)
        axes[row][0].set_ylim(bottom=0)
    for control, colour in COLOURS.items():
        axes[0][0].plot([], [], color=colour, label=control)
    figure.legend(loc="upper center", ncols=len(COLOURS), frameon=False, bbox_to_anchor=(0.5, 1.0))
    _save(figure, name)
    plt.close(figure)


def _loss_picture(results: dict[Run, list[Flow]]) -> None:
    """Rate over loss, with the response functions."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.8))
    grid = [10 ** (-4.2 + index * 0.05) for index in range(50)]
    grid = [loss for loss in grid if loss <= 0.016]
    for law, control, rtt, style in (
        (reno_law, "reno", RTT, "-"), (cubic_law, "cubic", RTT, "-"), (cubic_law, "cubic", 0.2, "--"),
    ):  # fmt: skip
        rates = [min(law(loss, rtt), GOODPUT) / 1e6 for loss in grid]
        axis.plot(grid, rates, style, color=COLOURS[control], alpha=0.6)
    for run, flows in results.items():
        if run.loss:
            marker = "o" if run.rtt == RTT else "s"
            axis.plot([run.loss], [flows[0].mean / 1e6], marker, color=COLOURS[flows[0].control], markersize=5)
    for control, colour in COLOURS.items():
        if control != "dctcp":
            axis.plot([], [], "o", color=colour, label=control)
    axis.plot([], [], "s--", color=COLOURS["cubic"], label="cubic, 200 ms")
    axis.set(xscale="log", yscale="log", xlabel="packets lost", ylabel="Mbit/s")
    axis.axhline(GOODPUT / 1e6, color="grey", linestyle=":", linewidth=0.8)
    axis.legend()
    _save(figure, "congestion-loss.svg")
    plt.close(figure)


def write(text: str) -> None:
    """Put the tables into docs/congestion.md, between its two marks."""
    page = DOCS / "congestion.md"
    before, rest = page.read_text().split("<!-- measured -->\n", 1)
    _, after = rest.split("<!-- end -->", 1)
    pictures = "\n\n".join(f"![{title}](pictures/congestion-{name}.svg)" for name, title in PICTURES.items())
    page.write_text(f"{before}<!-- measured -->\n{text}\n\n{pictures}\n<!-- end -->{after}")


def main() -> None:
    """Run what is asked for, and show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a run (default 60)")
    parser.add_argument("--only", default="alone,against,loss", help="some of alone,against,loss")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="simulations at a time")
    parser.add_argument("--write", action="store_true", help="into docs/congestion.md and docs/pictures")
    chosen = parser.parse_args()
    runs: list[Run] = []
    for kind in chosen.only.split(","):
        if kind == "loss":
            runs += lossy(chosen.seconds / 60)
        else:
            runs += {"alone": alone, "against": against}[kind](chosen.seconds)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        results = dict(zip(runs, pool.map(simulate, runs), strict=True))
    text = report(results)
    print(text)
    if chosen.write:
        draw(results)
        write(text)


if __name__ == "__main__":
    main()
