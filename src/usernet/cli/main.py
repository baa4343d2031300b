"""The entry point of `usernet`: says what is missing where the extra `cli` is not installed."""

from __future__ import annotations

import sys

from usernet.core.malloc import tune_malloc


def main() -> None:
    """Run the command line. Ends the process: 0, 1 where it failed, 2 for a wrong option or argument."""
    try:
        from usernet.cli.app import main as command_line
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        print(f"usernet: the command line needs {missing.name}: pip install 'usernet[cli]'", file=sys.stderr)
        sys.exit(1)
    tune_malloc()
    sys.exit(command_line())


if __name__ == "__main__":
    main()
