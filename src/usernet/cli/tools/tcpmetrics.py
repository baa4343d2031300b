"""`ip tcp_metrics`: what TCP remembers of destinations, as ip-tcp_metrics(8) shows and forgets it."""

from __future__ import annotations

import errno
from ipaddress import IPv4Network, ip_address, ip_network

from usernet.cli.tools.common import UsageError, locked, to_json
from usernet.cli.tools.words import Format, Words
from usernet.core.errors import error
from usernet.stack import Stack
from usernet.transport.tcp.metrics import TcpMetric
from usernet.transport.tcp.metrics_show import metric_entry, metric_line
from usernet.transport.tcp.tcp import Tcp


def _prefix(words: Words, field: str) -> IPv4Network:
    text = words.next(field, "an address or a prefix")
    try:
        network = ip_network(text)
    except ValueError:
        raise UsageError(f"{field}: expected an address or a prefix, not {text!r}") from None
    if not isinstance(network, IPv4Network):
        raise UsageError(f"{field}: expected an IPv4 address, not {text!r}")
    return network


def tcp_metrics(stack: Stack, words: Words, form: Format) -> str:
    """`ip tcp_metrics {show|flush} [[address] PREFIX]`, `ip tcp_metrics delete [address] ADDRESS`.

    Returns what it prints. Raises UsageError, and OSError ESRCH where a single address is asked for that isn't known.
    """
    command = words.choose("command", ("show", "list", "flush", "delete"), "show")
    daddr: IPv4Network | None = None
    saddr: IPv4Network | None = None
    while words.more():
        word = words.peek()
        if word in ("address", "src", "source"):
            words.next(word, "")
        if word in ("src", "source"):
            saddr = _prefix(words, "source")
        elif daddr is None:
            daddr = _prefix(words, "address")
        else:
            raise UsageError(f"unexpected {word!r}")
    if command == "delete" and (daddr is None or daddr.prefixlen != 32):
        raise UsageError("address: expected the address to forget")

    def wanted(entry: TcpMetric) -> bool:
        return (daddr is None or ip_address(entry.daddr) in daddr) and (
            saddr is None or ip_address(entry.saddr) in saddr
        )

    with locked(stack):
        metrics = stack.net.get(Tcp).metrics
        found = [entry for entry in metrics.entries() if wanted(entry)]
        if not found and daddr is not None and daddr.prefixlen == 32:
            raise error(errno.ESRCH)
        if command in ("flush", "delete"):
            for entry in found:
                metrics.delete(entry.daddr, entry.saddr)
            return ""
        now = stack.net.loop.now
        entries = [
            metric_entry(entry, str(ip_address(entry.daddr)), str(ip_address(entry.saddr)), now) for entry in found
        ]
    return to_json(entries, form.pretty) if form.json else "\n".join(map(metric_line, entries))
