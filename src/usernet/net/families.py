"""Socket families by AF_* (Linux: `struct net_proto_family`, sock_register): who makes a socket of a family."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from usernet.core.errors import error
from usernet.core.native import mypyc_attr

if TYPE_CHECKING:
    from usernet.net.pernet import Net


@mypyc_attr(allow_interpreted_subclasses=True)
class NetProtoFamily:
    """A family of sockets."""

    family: int = 0

    def create(self, sock_type: int, protocol: int) -> Any:
        """A new, unbound socket's protocol operations (sockets/family.py: ProtoOps).

        Raises OSError: ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM.
        """
        raise NotImplementedError(f"{type(self).__name__} must define create()")


@final
class Families:
    """The families of one namespace."""

    def __init__(self, net: Net) -> None:
        self.table: dict[int, NetProtoFamily] = {}
        self._modules: dict[int, Callable[[], object]] = {}

    def register(self, family: NetProtoFamily) -> None:
        # A family that isn't compiled may say which it is on its class, where only Python's own look-up finds it.
        named: Any = family
        self.table[named.family] = family

    def on_request(self, family: int, load: Callable[[], object]) -> None:
        """Have `load` called, which registers the family, when its first socket is asked for (Linux: request_module,
        "net-pf-%d")."""
        self._modules[family] = load

    def create(self, family: int, sock_type: int, protocol: int) -> Any:
        """Raises OSError EAFNOSUPPORT for a family that is not there, else what the family raises."""
        entry = self.table.get(family)
        if entry is None and family in self._modules:
            self._modules.pop(family)()
            entry = self.table.get(family)
        if entry is None:
            raise error(errno.EAFNOSUPPORT)
        return entry.create(sock_type, protocol)
