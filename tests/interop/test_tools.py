"""ping, traceroute, arping, nmap and hping3 can't tell the stack from a kernel.

Each command is run twice in the same surroundings, against the stack and against a kernel host (see `bed`), and what it
prints must be the same, after `normalise` has taken out what differs between any two runs: times, the numbers made from
clocks and chance (IP identification, time stamps, source ports, sequence numbers), and what one line of nmap says about
how long it took. Addresses are the same on both beds and stay.

Accepted differences, each made equal before the comparison:

- ICMP's rate limit is off on both (`net.ipv4.icmp_ratelimit=0`): with it, which of traceroute's sixteen probes at once
  are answered hangs on the moment. One test of its own compares what the limit lets through.
- ECN: the stack has none yet, so the kernel host is told not to have it either (`net.ipv4.tcp_ecn=0`). Only nmap -O
  asks.
- nmap -O, TS: the rate of the time stamps' clock. Kernels since 6.18 give each pair of ports its own offset, so nmap
  sees no clock there; the stack does as Linux 6.12, one offset for each pair of addresses.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pytest

import usernet
from tests.interop import services
from tests.interop.bed import HOST, Bed, kernel_bed, stack_bed
from tests.support import netns

pytestmark = netns.INTEROP

#: What to take out, in this order: (pattern, what is put in its place). Line by line.
RULES: Final = [
    # arping
    (r"time=[\d.]+ [num]?sec", "time=T"),
    # ping
    (r"time=[\d.]+ ms", "time=T"),
    (r"time \d+ms", "time T"),
    (r"^rtt min/avg.*", "rtt T"),
    (r"\d+ absolute", "N absolute"),
    (r"^(\t(?:[\d.]+\t)?)-?\d{1,2}$", r"\1D"),
    # traceroute
    (r"\d+\.\d+ ms", "T"),
    # nmap
    (r"^Starting Nmap.*", "Starting Nmap"),
    (r"\([\d.]+s latency\)", "(T latency)"),
    (r"scanned in [\d.]+ seconds", "scanned in T"),
    # hping3
    (r"rtt=[\d.]+ ms", "rtt=T"),
    (r"\bid=[1-9]\d*", "id=N"),
    (r"^status=0 port=\d+", "status=0 port=P"),
    (r"^round-trip min/avg/max.*", "round-trip T"),
    (r"Originate=\d+ Receive=\d+ Transmit=\d+", "Originate=T Receive=T Transmit=T"),
    (r"tsrtt=\d+", "tsrtt=T"),
    (r"tcpts=\d+", "tcpts=N"),
    (r"^ *\d+ \+\d+$", "N +N"),
]

#: nmap's fingerprint: what it derives from clocks and chance. SP, ISR and GCD are of sequence numbers, CU is its port.
FINGERPRINT_RULES: Final = [
    (r"SCAN\(.*?\)", ""),
    (r"\b(SP|ISR|GCD|TS)=[0-9A-F]+", r"\1=N"),
    (r"(Aggressive OS guesses|OS details|Running[^:]*|OS CPE|Device type|Network Distance):.*", ""),
]

# After the last request ping waits as long as between two, or twice the round trip: for a busy machine not too short.
PING: Final = [
    f"ping -n -c 3 -i 0.3 {HOST}",
    f"ping -n -c 2 -i 0.3 -s 0 {HOST}",
    f"ping -n -c 2 -i 0.3 -s 1472 {HOST}",
    f"ping -n -c 2 -i 0.3 -s 1473 {HOST}",
    f"ping -n -c 2 -i 0.3 -s 20000 {HOST}",
    f"ping -n -c 2 -i 0.3 -s 65507 {HOST}",
    f"ping -n -c 1 -W 1 -M do -s 1473 {HOST}",
    f"ping -n -c 2 -i 0.3 -R {HOST}",
    f"ping -n -c 2 -i 0.3 -T tsonly {HOST}",
    f"ping -n -c 2 -i 0.3 -T tsandaddr {HOST}",
    f"ping -n -c 2 -i 0.3 -T tsprespec {HOST} {HOST}",
    f"ping -n -c 2 -i 0.3 -Q 0x10 -t 3 {HOST}",
    f"ping -n -c 1 -p ff00 -s 100 {HOST}",
    f"ping -n -q -f -c 2000 {HOST}",
    f"ping -n -q -f -s 1472 -c 500 {HOST}",
    f"ping -n -q -c 100 -l 50 -i 0.002 {HOST}",
    "ping -n -c 1 -W 1 10.77.0.3",
    "ping -n -b -c 1 -W 0.5 10.77.0.255",
]

ROUTED: Final = [
    "ping -n -c 2 -i 0.3 10.78.0.2",
    "ping -n -c 1 -W 0.5 -t 1 10.78.0.2",
    "ping -n -c 1 -W 0.5 -s 1400 10.78.0.2",
    "ping -n -c 2 -W 0.5 -i 0.3 -M do -s 1400 10.78.0.2",
    "ping -n -c 2 -i 0.3 -R 10.78.0.2",
    "ping -n -c 1 -T tsandaddr 10.78.0.2",
    "ping -n -c 1 -W 0.5 10.79.0.1",
    "traceroute -n -w 2,0,0 -q 2 10.78.0.2",
    "traceroute -n -w 2,0,0 -q 2 -I 10.78.0.2",
    "traceroute -n -w 2,0,0 -q 2 -T -p 81 10.78.0.2",
    "traceroute -n -w 0.5,0,0 -q 1 --mtu 10.78.0.2",
    "traceroute -n -w 4,0,0 -q 1 -m 2 10.78.0.99",
    "hping3 -n -c 1 -S -p 81 -t 1 10.78.0.2",
]  # fmt: skip

#: With -w S,0,0 a probe's wait doesn't hang on how fast the one before was answered.
TRACEROUTE: Final = [
    f"traceroute -n -w 2,0,0 -q 2 {HOST}",
    f"traceroute -n -w 2,0,0 -q 2 -I {HOST}",
    f"traceroute -n -w 2,0,0 -q 2 -T -p 80 {HOST}",
    f"traceroute -n -w 2,0,0 -q 2 -T -p 81 {HOST}",
    f"traceroute -n -w 2,0,0 -q 2 -U -p 7 {HOST}",
    f"traceroute -n -w 0.5,0,0 -q 1 -U -p 9 -m 2 {HOST}",
    f"traceroute -n -w 0.5,0,0 -q 2 {HOST} 3000",
    f"traceroute -n -w 0.5,0,0 -q 2 --mtu {HOST}",
    f"traceroute -n -w 1,0,0 -q 1 -P 89 -m 2 {HOST}",
]

ARPING: Final = [
    f"arping -c 2 -W 0.05 -i net0 {HOST}",
    "arping -c 1 -w 0.3 -i net0 10.77.0.77",
    f"arping -c 2 -W 0.05 -i net0 -p -S 10.77.0.9 {HOST}",
    f"arping -d -c 1 -W 0.05 -i net0 {HOST}",
    f"arping -c 1 -w 0.3 -i net0 -S 0.0.0.0 {HOST}",
    f"arping -c 1 -w 0.3 -i net0 -T {HOST} 02:00:00:00:00:02",
    # An address conflict probed for (RFC 5227), and an announcement.
    f"arping -c 1 -w 0.3 -i net0 -U {HOST}",
]

NMAP: Final = [
    f"nmap -n -T4 -sS --reason -p 7,21,80,81 {HOST}",
    f"nmap -n -T4 -sU --reason -p 7,9,10 {HOST}",
    f"nmap -n -T4 -sV -p 21,80,81 {HOST}",
    f"nmap -n -T4 -sT --reason -p 7,21,80,81 {HOST}",
    f"nmap -n -T4 -sA --reason -p 80,81 {HOST}",
    f"nmap -n -T4 -sF --reason -p 80,81 {HOST}",
    f"nmap -n -T4 -sX --reason -p 80,81 {HOST}",
    f"nmap -n -T4 -sM --reason -p 80,81 {HOST}",
    f"nmap -n -T4 -sY --reason -p 80 {HOST}",
    # Without ICMP and IGMP: which of several answers nmap takes for theirs differs from run to run.
    f"nmap -n -T4 -sO --reason -p 6,17,47,89 {HOST}",
    f"nmap -n -T4 -sS -f --reason -p 80,81 {HOST}",
    f"nmap -n -sn -PE --disable-arp-ping --reason {HOST}",
    f"nmap -n -sn -PP --disable-arp-ping --reason {HOST}",
    f"nmap -n -sn -PM --disable-arp-ping --reason {HOST}",
    "nmap -n -sn -PR --reason 10.77.0.0/29",
]

#: -N sets the IP identification. hping3 takes its process id's low byte for fragments, and where that is 0 the sending
#: kernel gives each fragment another one.
HPING: Final = [
    f"hping3 -n -c 2 -i u20000 -N 4660 {arguments} {HOST}"
    for arguments in (
        "-S -p 80", "-S -p 81", "-A -p 80", "-A -p 81", "-F -p 81", "-F -P -U -p 81", "-R -p 80", "-S -F -p 80",
        "-S -A -p 80", "-S -p 80 -d 400 -f", "-S -p 80 -d 1200 -x -m 512 -f", "-S -p 81 -d 3000 -m 600 -f",
        "-S -p 80 --tcp-timestamp", "-Q -S -p 80", "-S -p 80 -b", "-S -p 80 -a 10.77.0.2",
        "-S -p 80 -M 1 -L 5 -w 1000 -O 5",
        "--udp -p 10 -d 100", "--udp -p 7 -d 3000", "--udp -p 10 -d 300 -f", "--udp -p 7 -d 1500 -f", "--udp -p 7 -b",
        "--icmp -d 2000", "--icmp -d 800 -f", "--icmp --icmptype 13", "--icmp --icmptype 17", "--icmp --icmptype 42",
        "-G --icmp", "-x --icmp", "-y --icmp -t 1", "-g 64 --icmp -d 100", "--rawip -H 200 -d 20",
    )
]  # fmt: skip


def normalise(text: str, rules: Sequence[tuple[str, str]] = RULES) -> list[str]:
    """The lines of what a program printed, without what differs from run to run."""
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.splitlines()]


def run_all(bed: Bed, commands: Sequence[str], outputs: dict[str, str]) -> None:
    # The first contact's ARP is no part of the comparison.
    netns.wait_until(
        lambda: bed.client.run("ping", "-c1", "-W1", HOST, check=False).returncode == 0, "the host to answer"
    )
    for command in commands:
        done = bed.client.run(*command.split(), check=False, seconds=40)
        outputs[command] = f"exit status {done.returncode}\n{done.stdout}{done.stderr}"


def compare(
    commands: Sequence[str],
    *,
    serve: bool = False,
    routed: bool = False,
    tun: bool = False,
    limited: bool = False,
    clean: Callable[[str], list[str]] = normalise,
) -> None:
    """Run every command against the stack and, at the same time, against a kernel; fail with what differs."""
    outputs: list[dict[str, str]] = [{}, {}]  # the kernel's and the stack's
    problems: list[BaseException] = []
    drops = ""

    def against_kernel() -> None:
        try:
            with kernel_bed(routed=routed) as bed:
                bed.host.run("sysctl", "-qw", "net.ipv4.tcp_ecn=0")
                if not limited:
                    bed.host.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
                if serve:
                    process = bed.host.popen(sys.executable, services.__file__, stdout=subprocess.PIPE)
                    assert process.stdout is not None
                    assert process.stdout.readline() == b"ready\n"
                run_all(bed, commands, outputs[0])
        except BaseException as problem:
            problems.append(problem)

    kernel = threading.Thread(target=against_kernel)
    kernel.start()
    try:
        with stack_bed(routed=routed, tun=tun) as bed:
            if not limited:
                bed.stack.sysctl["net.ipv4.icmp_ratelimit"] = 0
            if serve:
                with usernet.patched(bed.stack), services.serving():
                    run_all(bed, commands, outputs[1])
            else:
                run_all(bed, commands, outputs[1])
            drops = ", ".join(f"{reason.name} {count}" for reason, count in bed.stack.drops.items())
    finally:
        kernel.join()
    if problems:
        raise problems[0]
    different: list[str] = []
    for command in commands:
        wanted, got = clean(outputs[0][command]), clean(outputs[1][command])
        if wanted != got:
            different += ["", f"$ {command}", *difflib.unified_diff(wanted, got, "kernel", "stack", n=20, lineterm="")]
    if different:
        pytest.fail("\n".join([*different, "", f"the stack dropped: {drops or 'nothing'}"]), pytrace=False)


@netns.requires_program("ping")
def test_ping():
    compare(PING)


@netns.requires_program("ping")
def test_ping_over_tun():
    # The kernel host is on an Ethernet all the same, and an address nobody has fails otherwise there.
    compare([command for command in PING if "10.77.0.3" not in command], tun=True)


@netns.requires_program("ping", "traceroute", "hping3")
def test_through_a_router():
    compare(ROUTED, routed=True)


@netns.requires_program("traceroute")
def test_traceroute():
    compare(TRACEROUTE, serve=True)


@netns.requires_program("arping")
def test_arping():
    compare(ARPING)


@netns.requires_program("nmap")
def test_nmap():
    compare(NMAP, serve=True)


@netns.requires_program("hping3")
def test_hping3():
    compare(HPING, serve=True)


@netns.requires_program("hping3")
def test_icmp_errors_are_as_few():
    """Ten datagrams to closed ports at once: six port-unreachables, the burst that Linux saves up for one host."""
    compare([f"hping3 -n -c 10 -i u5000 --udp -p 10 {HOST}"], limited=True)


@pytest.mark.slow
@netns.requires_program("nmap")
def test_nmap_takes_the_stack_for_linux():
    """The fingerprint that `nmap -O` takes from a dozen odd segments is the kernel's."""

    def clean(text: str) -> list[str]:
        return normalise("\n".join(normalise(text.replace("\nOS:", ""))), FINGERPRINT_RULES)

    compare([f"nmap -n -O -p 7,80,81 {HOST}"], serve=True, clean=clean)
