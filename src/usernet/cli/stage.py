"""What the demo shows, on a terminal with colours and a moving bar, or as plain lines into a file or a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Self, final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.text import Text

BARS: Final = "▁▂▃▄▅▆▇█"
PLAIN_STEPS: Final = 5
"""Lines that a bar becomes where it can't move."""


def sparkline(values: list[float], width: int) -> str:
    """`values` as a row of at most `width` bars, each the mean of those it stands for."""
    if not values:
        return ""
    count = min(width, len(values))
    means = []
    for place in range(count):
        part = values[place * len(values) // count : (place + 1) * len(values) // count]
        means.append(sum(part) / len(part))
    top = max(means) or 1.0
    return "".join(BARS[min(int(mean / top * len(BARS)), len(BARS) - 1)] for mean in means)


@final
class Stage:
    """The demo's page. plain: no colours, nothing that moves; None: where the output is no terminal."""

    def __init__(self, plain: bool | None = None) -> None:
        self.plain: bool = not sys.stdout.isatty() if plain is None else plain
        self._console = Console(
            no_color=self.plain, force_terminal=False if self.plain else None, highlight=False, soft_wrap=True
        )
        self._number = 0

    def title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def step(self, text: str) -> None:
        """Begin the next chapter."""
        self._number += 1
        self._console.print()
        self._console.print(Text(f"{self._number}. {text}", style="bold cyan"))

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(f"   {text}", style=style))

    def block(self, text: str, style: str = "dim") -> None:
        """Lines as a tool prints them."""
        for line in text.splitlines():
            self._console.print(Text(f"   {line}", style=style))

    def event(self, when: float, text: str, remark: str = "", style: str = "") -> None:
        """Something at `when` (seconds), with a remark for those who have not seen such a thing before."""
        self._console.print(Text(f"   {when:9.6f}  ", style="green") + Text(text, style=style))
        if remark:
            self._console.print(Text(f"              ↳ {remark}", style="yellow"))

    def table(self, rows: list[tuple[str, str]]) -> None:
        """Names and values."""
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            self._console.print(Text("   ") + Text(f"{name:<{width}}", style="bold") + Text(value))

    def progress(self, total: int) -> Bar:
        """A bar of `total` bytes, for a `with` block."""
        return Bar(self, self._console, total)


@final
class Bar:
    """A progress bar."""

    def __init__(self, stage: Stage, console: Console, total: int) -> None:
        self._stage = stage
        self._total = total
        self._shown = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if not stage.plain:
            self._progress = Progress(
                TextColumn("   {task.percentage:>3.0f} %"),
                BarColumn(40),
                DownloadColumn(binary_units=True),
                TextColumn("{task.description}"),
                console=console,
                auto_refresh=False,
            )
            self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, note: str) -> None:
        """`done` bytes of all are there. note: shown beside it."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, description=note)
            self._progress.refresh()
            return
        step = done * PLAIN_STEPS // self._total if self._total else PLAIN_STEPS
        if step > self._shown:
            self._shown = step
            filled = "#" * (40 * step // PLAIN_STEPS)
            self._stage.say(f"{100 * step // PLAIN_STEPS:>3} % [{filled:<40}] {note}")
