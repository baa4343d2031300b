"""`%{ … }%`: Python in a script, with the state of the socket under test as variables.

`runner` gives a block `tcpi_*`, `SK_MEMINFO_*` and the constants of `tcpinfo`, fresh each time; what a block assigns
stays for the blocks after it. packetdrill runs all blocks after the script; here each runs at its time, so a failed
assertion stands beside the packets that led to it. A script's code is trusted as any program is.
"""

from __future__ import annotations

import traceback
from typing import Final, final

from usernet.packetdrill.errors import Mismatch
from usernet.packetdrill.tcpinfo import CONSTANTS

MAX_OUTPUT: Final = 1 << 20  # characters that blocks may print


@final
class CodeBlocks:
    """All blocks of one run. `output`: what they printed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.output: list[str] = []
        self._printed = 0
        self._variables: dict[str, object] = {"__name__": "__packetdrill__", "print": self._print, **CONSTANTS}

    def _print(self, *words: object, sep: str = " ", end: str = "\n", file: object = None, flush: bool = False) -> None:
        text = sep.join(str(word) for word in words) + end
        if self._printed < MAX_OUTPUT:
            self.output.append(text)
        self._printed += len(text)

    def run(self, text: str, line: int, variables: dict[str, int]) -> None:
        """Run a block.

        Args:
            text: its code.
            line: where it begins in the script, from 1.
            variables: the socket's state, by name.

        Raises:
            Mismatch: an assertion failed, or the code raised something else, or is no Python.
        """
        self._variables.update(variables)
        try:
            # Blank lines in front give the code the line numbers that it has in the script.
            code = compile("\n" * (line - 1) + text, self.path, "exec")
        except (SyntaxError, ValueError) as bad:
            raise Mismatch(f"code block: {type(bad).__name__}: {bad}") from None
        try:
            exec(code, self._variables)
        except (Exception, SystemExit) as raised:
            raise Mismatch(_explain(raised, self.path, text, line)) from None


def _explain(raised: BaseException, path: str, text: str, line: int) -> str:
    """What was raised, and the line of the block that raised it."""
    at = line
    for frame in traceback.extract_tb(raised.__traceback__):
        if frame.filename == path and frame.lineno is not None:
            at = frame.lineno
    lines = text.split("\n")
    source = lines[at - line].strip() if 0 <= at - line < len(lines) else ""
    value = f": {raised}" if str(raised) else ""
    where = f" (line {at})" if at != line else ""
    return f"code block{where}: {type(raised).__name__}{value}\n  {source}"
