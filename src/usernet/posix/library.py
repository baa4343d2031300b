"""The standard library's own socket.py, loaded once more on another `_socket`.

So everything that it adds in Python (makefile, create_connection, create_server, getfqdn, has_dualstack_ipv6, …) comes
along whole, whatever the version of Python. Its `import _socket` is answered with a module made here, whose class
`socket` and whose functions work on the current stack; all else in that is the host's, so that exceptions, constants
and enumerations are the very same objects, and `except` clauses and comparisons hold.
"""

from __future__ import annotations

import _socket
import builtins
import importlib.util
import io
import os
import socket as _standard
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, Final

from usernet.posix import handle, names
from usernet.sockets.user import send_file

NAME: Final = "usernet.posix._library"
"""The copy's name in `sys.modules`; `usernet.socket` is the one to import."""

_ENUMERATIONS: Final = ("AddressFamily", "SocketKind", "MsgFlag", "AddressInfo")
_NAMES: Final = (
    "getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "gethostname", "sethostname",
    "if_nameindex", "if_nametoindex", "if_indextoname",
)  # fmt: skip


def make_socket_module() -> ModuleType:
    """Another `_socket`: the host's, but for what concerns a network namespace."""
    module = ModuleType("_socket", _socket.__doc__)
    for name, value in vars(_socket).items():
        if not name.startswith("__"):
            setattr(module, name, value)
    setattr(module, "socket", handle.socket)
    setattr(module, "SocketType", handle.socket)
    setattr(module, "dup", handle.dup)
    setattr(module, "close", handle.close)
    for name in _NAMES:
        setattr(module, name, getattr(names, name))
    return module


def _importer(replacement: ModuleType) -> Callable[..., ModuleType]:
    def import_(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if name == "_socket" and level == 0:
            return replacement
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    return import_


def _repr(sock: Any) -> str:
    """As the standard one, but asks for no descriptor where there is none yet."""
    closed = getattr(sock, "_closed", False)
    kind = type(sock)
    about = f"fd={sock._fd}, family={sock.family}, type={sock.type}, proto={sock.proto}"
    return f"<{kind.__module__}.{kind.__qualname__}{' [closed]' if closed else ''} {about}{sock._describe()}>"


def _load() -> ModuleType:
    spec = importlib.util.find_spec("socket")
    if spec is None or spec.origin is None:
        raise ImportError("the standard library's socket.py is not to be found")
    with open(spec.origin, "rb") as file:
        source = file.read()
    module = ModuleType(NAME, _standard.__doc__)
    module.__file__ = spec.origin
    space = vars(module)
    space["__builtins__"] = {**vars(builtins), "__import__": _importer(make_socket_module())}
    sys.modules[NAME] = module  # its enumerations look for their module there
    exec(compile(source, spec.origin, "exec"), space)
    _share(module)
    _adapt(module)
    return module


def _share(module: ModuleType) -> None:
    """Put the standard module's enumerations and sentinels in place of the copy's own."""
    space = vars(module)
    for kind in _ENUMERATIONS:
        standard = getattr(_standard, kind)
        space[kind] = standard
        for name, member in standard.__members__.items():
            space[name] = member
    own, shared = space.get("_GLOBAL_DEFAULT_TIMEOUT"), getattr(_standard, "_GLOBAL_DEFAULT_TIMEOUT", None)
    space["_GLOBAL_DEFAULT_TIMEOUT"] = shared
    space["_GiveupOnSendfile"] = vars(_standard)["_GiveupOnSendfile"]
    for value in space.values():
        if isinstance(value, FunctionType) and value.__defaults__:
            value.__defaults__ = tuple(shared if default is own else default for default in value.__defaults__)


def _adapt(module: ModuleType) -> None:
    """What the standard class does with a descriptor, where it has to be done with the socket."""
    kind: Any = vars(module)["socket"]
    give_up: Any = vars(module)["_GiveupOnSendfile"]
    by_descriptor = getattr(kind, "_sendfile_use_sendfile", None)

    def _sendfile_use_sendfile(self: Any, file: Any, offset: int = 0, count: int | None = None) -> Any:
        if self.on_host and by_descriptor is not None:
            return by_descriptor(self, file, offset, count)
        try:
            os.fstat(file.fileno())
        except (AttributeError, OSError, io.UnsupportedOperation) as problem:
            raise give_up(problem) from None  # it is no file of the host's: `sendfile` goes on with `send`
        return send_file(self, file, offset, count)

    def __repr__(self: Any) -> str:
        return _repr(self)

    kind._sendfile_use_sendfile = _sendfile_use_sendfile
    kind.__repr__ = __repr__
    kind.__module__ = "usernet.socket"
    handle.DROP_IN = kind


LIBRARY: Final = _load()
"""The copy."""
