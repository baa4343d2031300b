"""`usernet python`: a Python program on a stack, in this process, that begins and ends as it does under `python`."""

from __future__ import annotations

import atexit
import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, NoReturn

from usernet.cli.build import StackOptions
from usernet.posix import patched

INTERRUPTED: Final = 130
"""The exit status of one that Ctrl-C has ended: 128 and SIGINT, as a shell has it."""


def run_program(options: StackOptions, module: str, args: Sequence[str]) -> NoReturn:
    """Run the program at `args[0]`, or `module` as `python -m` does, on a stack. Ends by SystemExit.

    The stack is there for the program's threads and for what it has registered with atexit, which come after its last
    line: it ends behind them. Raises click.ClickException where there is no such stack to be had.
    """
    exits = ExitStack()
    atexit.register(exits.close)  # what is registered later is called before
    stack = exits.enter_context(options.open("python"))
    exits.enter_context(patched(stack))
    sys.argv = [module, *args] if module else list(args)
    try:
        if module:
            sys.path.insert(0, os.getcwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(args[0])))
            runpy.run_path(args[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException as problem:
        # By the program's hook, where it has set one, and without the calls that have begun it.
        problem.__traceback__ = _of_program(problem.__traceback__)
        sys.excepthook(type(problem), problem, problem.__traceback__)
        sys.exit(INTERRUPTED if isinstance(problem, KeyboardInterrupt) else 1)
    sys.exit(0)


def _of_program(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the program's own."""
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        traceback = traceback.tb_next
    return traceback
