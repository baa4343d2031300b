"""How a script is run: its options, the command line's, and what holds where neither speaks.

Between `parser`, which only splits options into name and value, and `runner`. The names are packetdrill's. The
addresses, the MTU and the symbols are by default those with which its own suite and Linux's selftests run every script
(`run_all.py`, `ksft_runner.sh`), so the public corpora need no options at all.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Final, final

from usernet.packetdrill.ast import Option
from usernet.packetdrill.errors import BadEvent, ScriptError
from usernet.packetdrill.lexer import source_line

NSEC_PER_USEC: Final = 1_000
NSEC_PER_SEC: Final = 1_000_000_000

IPV4: Final = "ipv4"
IPV6: Final = "ipv6"
IPV4_MAPPED_IPV6: Final = "ipv4-mapped-ipv6"
IP_VERSIONS: Final = (IPV4, IPV6, IPV4_MAPPED_IPV6)

# What fits these addresses and the Fast Open key a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4 of the suites, or a key of zeros.
_V4_DEFINES: Final = {
    "TFO_COOKIE": "3021b9d889017eeb",
    "TFO_COOKIE_ZERO": "b7c12350a90dc8f5",
    "CODE": "host_unreachable",
    "CMSG_LEVEL_IP": "SOL_IP",
    "CMSG_TYPE_RECVERR": "IP_RECVERR",
}
_V6_DEFINES: Final = {
    "TFO_COOKIE": "c1d1e9742a47a9bc",
    "TFO_COOKIE_ZERO": "82af1a8f9a205c34",
    "CODE": "address_unreachable",
    "CMSG_LEVEL_IP": "SOL_IPV6",
    "CMSG_TYPE_RECVERR": "IPV6_RECVERR",
}

_WITHOUT_VALUE: Final = frozenset(
    {"tcp_ts_ecr_scaled", "strict_segments", "is_anyip", "send_omit_free", "dry_run", "debug", "verbose"}
)
# Understood, and without meaning where packets never leave the process.
_IGNORED: Final = frozenset(
    {"send_omit_free", "dry_run", "debug", "verbose", "code_command", "code_format", "code_sockopt", "speed"}
)


def default_defines(ip_version: str) -> dict[str, str]:
    """The symbols that the public corpora count on, for one of IP_VERSIONS."""
    if ip_version == IPV4_MAPPED_IPV6:
        return {**_V4_DEFINES, "CMSG_LEVEL_IP": "SOL_IPV6", "CMSG_TYPE_RECVERR": "IPV6_RECVERR"}
    return dict(_V6_DEFINES if ip_version == IPV6 else _V4_DEFINES)


@final
class Config:
    """Everything that can be set about a run.

    Addresses are packed. `tolerance`: ns. `tolerance_percent`: of the time since the event before, where that is more.
    `mss`: bytes of payload in each packet that a received super-packet was merged from; 0 for packets that were not
    merged. `strict_segments`: an expected packet is one packet, never several in a row. `ts_tick`: ns of one tick of
    TCP time stamps, 0 to not check them. `ts_ecr_scaled`: an echoed time stamp that was never sent is taken relative
    to the first.
    """

    def __init__(self, ip_version: str = IPV4) -> None:
        if ip_version not in IP_VERSIONS:
            raise ValueError(f"found the IP version {ip_version!r}, expected one of {', '.join(IP_VERSIONS)}")
        self.ip_version = ip_version
        self.bind_port: int = 8080
        self.connect_port: int = 8080
        self.local_ip: bytes = b""
        self.remote_ip: bytes = b""
        self.gateway_ip: bytes = b""
        self.prefix_length: int = 0
        self.remote_prefix_length: int = 0
        self.mtu: int = 1500
        self.mss: int = 0
        self.tolerance: int = 4_000 * NSEC_PER_USEC
        self.tolerance_percent: float = 12.5
        self.strict_segments: bool = False
        self.ts_tick: int = 0
        self.ts_ecr_scaled: bool = False
        self.non_fatal_packet: bool = False
        self.non_fatal_syscall: bool = False
        self.is_anyip: bool = False
        self.init_scripts: str = ""
        self._set_addresses(ip_version)

    def _set_addresses(self, ip_version: str) -> None:
        self.ip_version = ip_version
        if ip_version == IPV6:
            self.local_ip = socket.inet_pton(socket.AF_INET6, "fd3d:0a0b:17d6::1")
            self.gateway_ip = socket.inet_pton(socket.AF_INET6, "fd3d:0a0b:17d6:8888::1")
            self.remote_ip = socket.inet_pton(socket.AF_INET6, "fd3d:fa7b:d17d::1")
            self.prefix_length, self.remote_prefix_length = 48, 128
            self.mtu = 1520  # 1500 and the 20 bytes that IPv6's header is longer: the same MSS in both versions
        else:
            self.local_ip = self.gateway_ip = socket.inet_aton("192.168.0.1")
            self.remote_ip = socket.inet_aton("192.0.2.1")
            self.prefix_length, self.remote_prefix_length = 16, 32
            self.mtu = 1500

    @property
    def wire_version(self) -> int:
        """The IP version of the packets: 4 or 6."""
        return 6 if self.ip_version == IPV6 else 4

    @property
    def socket_domain(self) -> int:
        """The address family of sockets whose family a script leaves open: Linux's AF_INET or AF_INET6."""
        return 2 if self.ip_version == IPV4 else 10

    def socket_address(self, address: bytes) -> bytes:
        """An address of the wire as a socket has it: IPv4-mapped where that is the version."""
        return bytes(10) + b"\xff\xff" + address if self.ip_version == IPV4_MAPPED_IPV6 else address

    def set_exact(self) -> None:
        """No tolerance at all: virtual time has no jitter."""
        self.tolerance = 0
        self.tolerance_percent = 0.0

    def set(self, name: str, value: str | None) -> None:
        """Set one option. `value` None: without '='. Raises BadEvent for an unknown option or a bad value."""
        if name in _WITHOUT_VALUE:
            if value is not None:
                raise BadEvent(f"found a value for --{name}, expected none")
            value = ""
        elif value is None:
            raise BadEvent(f"found --{name} without a value, expected --{name}=VALUE")
        if name in _IGNORED or name == "define":  # symbols were the parser's
            return
        if name in _ADDRESS_OPTIONS:
            self._set_address(name, value)
        elif name == "ip_version":
            if value not in IP_VERSIONS:
                raise BadEvent(f"found --ip_version={value}, expected one of {', '.join(IP_VERSIONS)}")
            if value != self.ip_version:
                self._set_addresses(value)
        elif name == "netmask_ip":
            self.prefix_length = _netmask_length(value)
        elif name in ("bind_port", "connect_port"):
            port = _number(name, value, 1, 0xFFFF)
            if name == "bind_port":
                self.bind_port = port
            else:
                self.connect_port = port
        elif name == "mss":
            self.mss = _number(name, value, 1, 0xFFFF)
        elif name == "mtu":
            self.mtu = _number(name, value, 68, 0xFFFF)
        elif name == "tolerance_usecs":
            self.tolerance = _number(name, value, 1, 1 << 40) * NSEC_PER_USEC
        elif name == "tolerance_percent":
            self.tolerance_percent = _percent(value)
        elif name == "tcp_ts_tick_usecs":
            self.ts_tick = _number(name, value, 0, 1_000_000) * NSEC_PER_USEC
        elif name == "tcp_ts_ecr_scaled":
            self.ts_ecr_scaled = True
        elif name == "strict_segments":
            self.strict_segments = True
        elif name == "is_anyip":
            self.is_anyip = True
        elif name == "init_scripts":
            self.init_scripts = value
        elif name == "non_fatal":
            self._set_non_fatal(value)
        else:
            raise BadEvent(f"found the option --{name}, expected one that is known")

    def _set_address(self, name: str, value: str) -> None:
        text, slash, length = value.partition("/")
        version = self.wire_version
        try:
            address = socket.inet_pton(socket.AF_INET6 if version == 6 else socket.AF_INET, text)
        except OSError:
            raise BadEvent(f"found --{name}={value}, expected an IPv{version} address") from None
        if name == "remote_ip":
            self.remote_ip = address
            bits = len(address) * 8
            self.remote_prefix_length = _number("remote_ip's prefix", length, 0, bits) if slash else bits
        elif slash:
            raise BadEvent(f"found --{name}={value}, expected an address without a prefix length")
        elif name == "local_ip":
            self.local_ip = address
        else:
            self.gateway_ip = address

    def _set_non_fatal(self, value: str) -> None:
        for word in value.replace(",", " ").split():
            if word == "packet":
                self.non_fatal_packet = True
            elif word == "syscall":
                self.non_fatal_syscall = True
            else:
                raise BadEvent(f"found --non_fatal={value}, expected 'packet', 'syscall' or both")

    def apply(self, options: Iterable[Option], path: str, text: str) -> None:
        """Set a script's options. `path` and `text`: the script's, for messages. Raises ScriptError at the option."""
        # The IP version first, for the addresses are of that version wherever it stands.
        for option in sorted(options, key=lambda option: option.name != "ip_version"):
            try:
                self.set(option.name, option.value)
            except BadEvent as bad:
                source = source_line(text, option.line)
                raise ScriptError(path, option.line, option.column, str(bad), source) from None


_ADDRESS_OPTIONS: Final = frozenset({"local_ip", "remote_ip", "gateway_ip"})


def _number(name: str, value: str, low: int, high: int) -> int:
    if not value.isdecimal() or not low <= int(value) <= high:
        raise BadEvent(f"found --{name}={value}, expected a number from {low} to {high}")
    return int(value)


def _percent(value: str) -> float:
    try:
        percent = float(value)
    except ValueError:
        percent = -1.0
    if not 0.0 <= percent <= 100.0:
        raise BadEvent(f"found --tolerance_percent={value}, expected a number from 0 to 100")
    return percent


def _netmask_length(value: str) -> int:
    try:
        return ipaddress.IPv4Network(f"0.0.0.0/{value}").prefixlen
    except ValueError:
        raise BadEvent(f"found --netmask_ip={value}, expected a netmask such as 255.255.0.0") from None


def configure(
    options: Iterable[Option],
    path: str,
    text: str,
    ip_version: str = IPV4,
    overrides: Mapping[str, str | None] | None = None,
) -> Config:
    """The configuration of a run: defaults for an IP version, a script's own options, then a command line's.

    Args:
        options, path, text: the script's.
        ip_version: one of IP_VERSIONS, unless an option says otherwise.
        overrides: name to value of the options that go before the script's.

    Raises:
        ScriptError: a bad option of the script. ValueError: a bad one of `overrides`.
    """
    overrides = dict(overrides or {})
    config = Config(overrides.pop("ip_version", None) or ip_version)
    config.apply(options, path, text)
    for name, value in overrides.items():
        try:
            config.set(name, value)
        except BadEvent as bad:
            raise ValueError(str(bad)) from None
    return config
