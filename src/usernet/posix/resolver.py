"""The stub resolver: asks nameservers over the stack's own UDP and TCP (RFC 1034 section 5.3.1, resolv.conf(5)).

A name is tried with the suffixes of the search list, each nameserver is asked in turn, an answer that was cut is asked
for again over TCP (RFC 7766), and what does not come from the server asked, or is no answer to the question, is not
taken (RFC 5452 section 9). dnspython makes and reads the messages; it sends nothing.
"""

from __future__ import annotations

import ipaddress
from _socket import gaierror
from typing import TYPE_CHECKING, Any, Final

from usernet.core.errors import UnusableStackError
from usernet.ip.text import parse_nameserver
from usernet.ip.v4.devinet import Devinet
from usernet.net.families import Families
from usernet.net.pernet import Net
from usernet.netdevice.namespace import DeviceNamespace
from usernet.sockets.address import AF_INET, AF_INET6, AF_UNSPEC, EAI_NONAME, Names, hosts_lookup
from usernet.sockets.user import UserSocket

if TYPE_CHECKING:
    from dns.message import Message

EAI_AGAIN: Final = -3
EAI_FAIL: Final = -4
MAXNS: Final = 3
"""How many nameservers are asked (resolv.conf(5))."""
MAXDNSRCH: Final = 6
"""How many suffixes are tried."""
MAX_UDP: Final = 65535
MAX_CHAIN: Final = 16
"""How many aliases (CNAME) are followed within an answer."""

SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2


class NoAnswerError(Exception):
    """No nameserver gave a usable answer. `final`: asking again would not help."""

    def __init__(self, final: bool) -> None:
        super().__init__()
        self.final = final


def has_family(net: Net, family: int) -> bool:
    """Whether the stack has sockets of `family`."""
    return family in net.get(Families).table


def own_addresses(net: Net) -> list[bytes]:
    """The stack's own addresses, those of its loopback last."""
    devinet = net.get(Devinet)
    found = [entry.addr for dev in net.get(DeviceNamespace).values() for entry in devinet.of(dev)]
    return sorted(found, key=lambda addr: addr[0] == 127)


def lookup(net: Net, name: str, family: int) -> list[bytes]:
    """The addresses of `name`, packed, as nameservers know them; the stack's own name needs none of them.

    family: AF_INET, AF_INET6, or AF_UNSPEC for those that the stack has. Raises gaierror: EAI_NONAME where the name,
    or its address of that family, doesn't exist, EAI_AGAIN where nobody answered, EAI_FAIL.
    """
    names = net.get(Names)
    if net.name and name.rstrip(".").lower() == net.name.lower():
        own = [addr for addr in own_addresses(net) if family in (AF_UNSPEC, AF_INET if len(addr) == 4 else AF_INET6)]
        if own:
            return own
    kinds = ["A"] if family == AF_INET else ["AAAA"] if family == AF_INET6 else ["A"]
    if family == AF_UNSPEC and has_family(net, AF_INET6):
        kinds = ["AAAA", "A"]
    found: list[bytes] = []
    trouble: NoAnswerError | None = None
    if names.nameservers:
        for candidate in candidates(names, name):
            for kind in kinds:
                try:
                    found += [ipaddress.ip_address(text).packed for text in _answers(net, candidate, kind)]
                except NoAnswerError as cause:
                    trouble = cause
            if found:
                return found
    if trouble is None:
        raise gaierror(EAI_NONAME, "Name or service not known")
    if trouble.final:
        raise gaierror(EAI_FAIL, "Non-recoverable failure in name resolution")
    raise gaierror(EAI_AGAIN, "Temporary failure in name resolution")


def reverse(net: Net, packed: bytes) -> str | None:
    """The name of an address: from the hosts table, the stack's own, or asked of nameservers; None for none."""
    names = net.get(Names)
    for name in tuple(names.hosts):
        if packed in (hosts_lookup(names, name, AF_UNSPEC) or ()):
            return name
    if net.name and packed in own_addresses(net):
        return net.name
    if not names.nameservers:
        return None
    pointer = ipaddress.ip_address(packed).reverse_pointer
    try:
        answers = _answers(net, pointer + ".", "PTR")
    except NoAnswerError:
        return None
    return answers[0].rstrip(".") if answers else None


def candidates(names: Names, name: str) -> list[str]:
    """The full names to try for `name`, in order (resolv.conf(5): search, ndots)."""
    if name.endswith("."):
        return [name]
    plain = name + "."
    suffixed = [f"{name}.{suffix.strip('.')}." for suffix in names.search[:MAXDNSRCH]]
    return [plain, *suffixed] if name.count(".") >= names.ndots else [*suffixed, plain]


def _answers(net: Net, name: str, kind: str) -> list[str]:
    """What the nameservers have for a full name, as text; nothing where the name, or that kind of data, isn't there.

    Raises NoAnswerError where no nameserver gave an answer.
    """
    try:
        import dns.exception
        import dns.message
        import dns.rcode
    except ModuleNotFoundError:
        raise ModuleNotFoundError("names are asked for with dnspython: pip install 'usernet[dns]'") from None
    try:
        query = dns.message.make_query(name, kind, use_edns=False)
    except dns.exception.DNSException:
        return []  # no nameserver can know a name that is malformed
    names = net.get(Names)
    refused = False
    for _ in range(max(names.attempts, 1)):
        for server in names.nameservers[:MAXNS]:
            query.id = net.random.getrandbits(16)
            answer = _exchange(net, query, server, names.timeout)
            if answer is None:
                continue
            code = answer.rcode()
            if code == dns.rcode.NXDOMAIN:
                return []
            if code == dns.rcode.NOERROR:
                return _read(answer, name, kind)
            refused = code == dns.rcode.REFUSED
    raise NoAnswerError(refused)


def _read(answer: Message, name: str, kind: str) -> list[str]:
    """The answer's records of `kind` for `name`, through aliases."""
    import dns.name
    import dns.rdatatype

    wanted = dns.name.from_text(name)
    rdtype = dns.rdatatype.from_text(kind)
    for _ in range(MAX_CHAIN):
        alias = None
        for rrset in answer.answer:
            if rrset.name != wanted:
                continue
            if rrset.rdtype == rdtype:
                return [rdata.to_text() for rdata in rrset]
            if rrset.rdtype == dns.rdatatype.CNAME:
                alias = rrset[0].target
        if alias is None:
            break
        wanted = alias
    return []


def _exchange(net: Net, query: Message, server: str, timeout: float) -> Message | None:
    """One question to one nameserver; None where no answer came within `timeout` seconds."""
    address = parse_nameserver(server)
    try:
        answer = _ask_udp(net, query, address, timeout)
        if answer is not None and _is_cut(answer):
            answer = _ask_tcp(net, query, address, timeout)
    except UnusableStackError:
        raise
    except OSError:
        return None  # refused, unreachable, or too late
    return answer


def _is_cut(answer: Message) -> bool:
    import dns.flags

    return bool(answer.flags & dns.flags.TC)


def _parse(query: Message, wire: bytes) -> Message | None:
    """The answer in `wire`; None for what is malformed, or no answer to `query`."""
    import dns.exception
    import dns.message

    try:
        answer = dns.message.from_wire(wire, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError):
        return None
    return answer if query.is_response(answer) else None


def _open(net: Net, address: tuple[str, int], kind: int) -> UserSocket:
    return UserSocket(net, AF_INET6 if ":" in address[0] else AF_INET, kind)


def _ask_udp(net: Net, query: Message, address: tuple[str, int], timeout: float) -> Message | None:
    clock = net.loop.clock
    with _open(net, address, SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.send(query.to_wire())
        deadline = clock.now() + round(timeout * 1e9)
        while True:
            left = deadline - clock.now()
            if left <= 0:
                return None
            sock.settimeout(left / 1e9)
            answer = _parse(query, sock.recv(MAX_UDP))
            if answer is not None:
                return answer


def _ask_tcp(net: Net, query: Message, address: tuple[str, int], timeout: float) -> Message | None:
    wire = query.to_wire()
    with _open(net, address, SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.sendall(len(wire).to_bytes(2, "big") + wire)
        length = int.from_bytes(_read_exactly(sock, 2), "big")
        return _parse(query, _read_exactly(sock, length))


def _read_exactly(sock: Any, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise ConnectionResetError("the nameserver ended the connection within its answer")
        data += part
    return data
