"""The compiled half of the build: everything else is in pyproject.toml.

`pip install .` compiles the floors of the stack, `Stack` itself and what drives it, by mypyc, and of the surfaces
above them what a channel's bytes and a supervisor's calls go through; the others stay interpreted. The sources are
packed beside the extension modules, so that USERNET_PURE=1 can run them instead.
Nothing is compiled, and one line says why, where USERNET_PURE=1 is set, where the compiler or Python's headers are
missing, or where mypy is; USERNET_PURE=0 makes an error of that. An editable installation is never compiled, for it
would go stale with the first edit.

USERNET_JOBS: how many files to compile at once (the number of CPUs). USERNET_OPT: the C compiler's level (2).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "src" / "usernet"

OPTIMIZATION = os.environ.get("USERNET_OPT", "2")

FLOORS = (
    "core", "wire", "skbuff", "net", "netdevice", "sock", "drivers", "link", "ip", "conntrack", "nat", "nftables",
    "transport", "sockets", "runner",
)  # fmt: skip
MODULES = ("stack",)
SURFACES = (
    "posix/channel/channel", "posix/channel/datagram", "posix/channel/peer", "posix/channel/reader",
    "posix/channel/single", "posix/channel/stream",
    "netd/backend", "netd/calls", "netd/interface", "netd/layouts", "netd/opensocket", "netd/sweep", "netd/transfer",
    "netd/supervisor/call", "netd/supervisor/calls_data", "netd/supervisor/calls_options",
    "netd/supervisor/calls_socket", "netd/supervisor/memory", "netd/supervisor/process",
    "netd/supervisor/seccomp", "netd/supervisor/supervisor", "netd/supervisor/table",
)  # fmt: skip

INTERPRETED = (
    "core/pure",  # is read before any other
    "core/native",  # is what the interpreter needs
    "drivers/host",  # ends in pyroute2, and is called once a device
    "sockets/handle",  # the classes that programs subclass, and mix with others: their layout must be Python's own
    "sockets/base",
    "sockets/user",
    "sockets/poll",
    "sockets/netlink/",  # is asked by people and their tools, not by packets
)


def compiled_modules() -> list[str]:
    """The source files that are compiled, as paths below the package without their ending."""
    paths = [path for floor in FLOORS for path in sorted((PACKAGE / floor).rglob("*.py"))]
    names = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in paths if path.name != "__init__.py"]
    return [name for name in (*names, *MODULES, *SURFACES) if not name.startswith(INTERPRETED)]


def why_not() -> str:
    """Why nothing can be compiled here; empty where all is there."""
    if os.environ.get("USERNET_PURE", "0") not in ("", "0"):
        return "USERNET_PURE is set"
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} is not CPython"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler ({compiler[0]})"
    headers = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
    if not any(Path(place, "Python.h").exists() for place in headers):
        return f"Python's headers are missing ({headers[0]}/Python.h)"
    try:
        import mypyc.build  # noqa: F401
    except ImportError:
        return "mypy is missing"
    return ""


def translate(target: str) -> list[Any]:
    """Have mypyc write the C files below `target`. Returns the extension modules to be made of them."""
    from mypyc.build import mypycify

    sys.setrecursionlimit(10_000)
    options = [
        "--config-file", "pyproject.toml",
        # The build environment has none of the packages that a few modules use, so no type of theirs is known.
        "--ignore-missing-imports", "--no-warn-unused-ignores", "--no-warn-return-any", "--allow-untyped-calls",
        "--allow-untyped-decorators", "--allow-subclassing-any", "--follow-imports=silent",
        "--always-true", "COMPILED",
    ]  # fmt: skip
    sources = [f"src/usernet/{name}.py" for name in compiled_modules()]
    extensions = mypycify(
        [*options, *sources],
        opt_level=OPTIMIZATION,
        debug_level="0",
        multi_file=True,
        group_name="usernet",
        target_dir=target,
    )
    for extension in extensions:
        # A warning of a compiler that we have not met must not end the build.
        flags = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
        extension.extra_compile_args = [*flags, "-w", "-fvisibility=hidden"]
    return list(extensions)


class ParallelBuild(build_ext):
    """Compiles as many files at once as there are CPUs."""

    def build_extensions(self) -> None:
        self.compiler.compile = self._compile_in_parallel
        super().build_extensions()

    def _compile_in_parallel(
        self, sources: list[str], output_dir: str | None = None, macros: Any = None, include_dirs: Any = None,
        debug: bool = False, extra_preargs: Any = None, extra_postargs: Any = None, depends: Any = None,
    ) -> list[str]:  # fmt: skip
        compiler: Any = self.compiler
        macros, objects, extra, options, build = compiler._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        options_before = compiler._get_cc_args(options, debug, extra_preargs)

        # A literal more in one module renumbers those of all: any header that is new makes all objects old. So does
        # another level of optimization.
        level = Path(self.build_temp, "level")
        if not level.exists() or level.read_text() != OPTIMIZATION:
            level.write_text(OPTIMIZATION)
        headers = max(path.stat().st_mtime for path in (level, *Path(self.build_temp).glob("*.h")))

        def compile_one(obj: str) -> None:
            source, ending = build[obj]
            made = Path(obj)
            if made.exists() and made.stat().st_mtime > max(headers, Path(source).stat().st_mtime):
                return
            compiler._compile(obj, source, ending, options_before, extra, options)

        with ThreadPoolExecutor(int(os.environ.get("USERNET_JOBS") or os.cpu_count() or 1)) as pool:
            work = [pool.submit(compile_one, obj) for obj in objects if obj in build]
            try:
                for one in work:
                    one.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return list(objects)


class BuildCompiled(build_ext):
    """Translates when it is run, not when it is asked what it would do; then another command compiles."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.extensions: list[Any] = []
        self.outputs: list[str] = []

    def get_source_files(self) -> list[str]:
        return ["setup.py"]

    def get_outputs(self) -> list[str]:
        return self.outputs

    def run(self) -> None:
        os.makedirs(self.build_temp, exist_ok=True)
        self._remove_made()
        self.distribution.ext_modules = translate(self.build_temp)
        build = ParallelBuild(self.distribution)
        build.build_lib = self.build_lib
        build.build_temp = self.build_temp
        try:
            build.ensure_finalized()
            build.run()
        except Exception as problem:
            if os.environ.get("USERNET_PURE") == "0":
                raise
            self._remove_made()
            lines = str(problem).splitlines() or [type(problem).__name__]
            say(f"built to run interpreted: the compiler failed: {lines[0]}")
        else:
            self.outputs = build.get_outputs()
        finally:
            self.distribution.ext_modules = None

    def _remove_made(self) -> None:
        """What a build before this one made, of modules that may be there no more."""
        for made in Path(self.build_lib).rglob("*" + sysconfig.get_config_var("EXT_SUFFIX")):
            made.unlink()


class CompiledDistribution(Distribution):
    """Knows before anything is translated whether the wheel will be for one platform."""

    def has_ext_modules(self) -> bool:
        return not self._editable() and not why_not()

    def run_command(self, command: str) -> None:
        if command == "build" and not self._editable():
            reason = why_not()
            if reason and os.environ.get("USERNET_PURE") == "0":
                raise SystemExit(f"usernet: can't be compiled: {reason}")
            if reason:
                say(f"built to run interpreted: {reason}")
        super().run_command(command)

    def _editable(self) -> bool:
        return "editable_wheel" in self.commands or "develop" in self.commands


def say(line: str) -> None:
    """One line for whoever installs."""
    sys.stderr.write(f"usernet: {line}\n")
    sys.stderr.flush()


setup(distclass=CompiledDistribution, cmdclass={"build_ext": BuildCompiled})
