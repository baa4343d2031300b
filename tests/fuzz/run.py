"""Run a fuzz target under atheris: python -m tests.fuzz.run NAME [--seconds N] [libFuzzer's own options]

What it finds is written to crash-… in the current directory; `python -m tests.fuzz.run NAME FILE` repeats it. New
inputs stay in memory unless a directory for them is named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Parse the command line, instrument the package, and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the target, of tests/fuzz/targets.py")
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60)")
    arguments, rest = parser.parse_known_args()
    try:
        atheris = import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("atheris is missing: pip install -e '.[all,fuzz]'")
    # Imported under instrumentation, so that coverage steers.
    with atheris.instrument_imports(include=["usernet"]):
        from tests.fuzz.targets import CORPUS, TARGETS
    if arguments.name not in TARGETS:
        parser.error(f"target: expected one of {', '.join(TARGETS)}, not {arguments.name!r}")
    files = [word for word in rest if not word.startswith("-")]
    options = [f"-max_total_time={arguments.seconds}", "-timeout=20", *(word for word in rest if word.startswith("-"))]
    if not any(Path(word).is_file() for word in files):
        files.append(str(CORPUS / arguments.name))
        if len(files) == 1:
            # libFuzzer writes what is new into the first directory: not among the seeds.
            with tempfile.TemporaryDirectory() as fresh:
                atheris.Setup([sys.argv[0], *options, fresh, *files], TARGETS[arguments.name])
                atheris.Fuzz()
            return
    atheris.Setup([sys.argv[0], *options, *files], TARGETS[arguments.name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
