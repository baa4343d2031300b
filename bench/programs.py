"""Programs as they come, under `usernet run`, as clients and as servers, with the kernel on the other end.

    python bench/programs.py [PROGRAM…] [--exactly] [--on usernet|kernel|stacks|slirp4netns] [--list] [--verbose]

Prints a table: what each program did, or why it did not. The program runs under `usernet run` on a stack (10.77.0.2)
that a TAP device joins to a network namespace of the kernel's (10.77.0.1), where its counterpart runs. `--on stacks`:
the counterpart runs under another `usernet run`; the kernel only forwards. `--on kernel`: the same with a second
namespace in place of the stack, to see what this machine's kernel makes of it. A program that isn't installed is left
out, and said so. Needs root (namespaces, TAP). Status 1 where a program failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from _worlds import PATIENCE, WORLDS, World
from _worlds import Failure as Failure

import usernet

# -- what the programs do: each a client at the near end of a server at the far end


def megabytes(world: World, count: int) -> tuple[Path, str]:
    """A file to be fetched, and its SHA-256."""
    (world.directory / "www").mkdir(exist_ok=True)
    path = world.directory / "www" / "file"
    data = os.urandom(1 << 20) * count
    path.write_bytes(data)
    path.chmod(0o644)
    return path, hashlib.sha256(data).hexdigest()


def same(world: World, name: str, digest: str) -> None:
    """See that a file is what was sent. Raises Failure."""
    if hashlib.sha256((world.directory / name).read_bytes()).hexdigest() != digest:
        raise Failure(f"{name} is not what was sent")


def python_server(world: World) -> str:
    """The standard library's server with a file of 10 MB, whose SHA-256 is returned."""
    digest = megabytes(world, 10)[1]
    world.start(world.far, "python3", "-m", "http.server", "80", "-d", str(world.directory / "www"))
    world.listening(80)
    return digest


def curl(world: World) -> str:
    """Fetch a file."""
    digest = python_server(world)
    world.run(world.near, "curl", "-sSf", "-o", "got", f"http://{world.far_address}/file")
    same(world, "got", digest)
    return "10 MB fetched"


def wget(world: World) -> str:
    """Fetch a file."""
    digest = python_server(world)
    world.run(world.near, "wget", "-q", "-O", "got", f"http://{world.far_address}/file")
    same(world, "got", digest)
    return "10 MB fetched"


def python(world: World) -> str:
    """Fetch a file from http.server by urllib."""
    digest = python_server(world)
    code = (
        "import hashlib, urllib.request\n"
        f"print(hashlib.sha256(urllib.request.urlopen('http://{world.far_address}/file').read()).hexdigest())"
    )
    if digest not in world.run(world.near, "python3", "-c", code):
        raise Failure("what was fetched is not what was sent")
    return "10 MB by urllib from http.server"


def ssh(world: World) -> str:
    """Only root may be logged in without PAM; the host's configuration is not touched."""
    here = world.directory
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", here / name], check=True)
    here.chmod(0o700)
    Path("/run/sshd").mkdir(exist_ok=True)
    (here / "sshd_config").write_text(
        f"Port 22\nListenAddress 0.0.0.0\nHostKey {here}/host\nAuthorizedKeysFile {here}/user.pub\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\n"
    )
    sshd = shutil.which("sshd") or "sshd"
    world.start(world.far, sshd, "-D", "-e", "-f", f"{here}/sshd_config")
    world.listening(22)
    options = ("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={here}/known", "-o", "LogLevel=ERROR")
    data = os.urandom(1 << 20) * 8
    (here / "sent").write_bytes(data)
    output = world.run(
        world.near, "ssh", "-F", "none", "-i", f"{here}/user", *options, f"root@{world.far_address}",
        "sha256sum; echo $SSH_CONNECTION", input=data,
    )  # fmt: skip
    if hashlib.sha256(data).hexdigest() not in output or f"{world.far_address} 22" not in output:
        raise Failure(f"ssh: what came back is\n{output}")
    return "a login, 8 MB piped through"


def rate(pattern: str, output: str, unit: str) -> str:
    """A number that a program printed, with its unit."""
    found = re.findall(pattern, output, re.MULTILINE)
    if not found:
        raise Failure(f"no figure in\n{output}")
    return f"{float(found[-1]):,.0f} {unit}"


def nginx(world: World) -> str:
    """nginx with two workers, asked by wrk over forty connections."""
    here = world.directory
    megabytes(world, 1)
    (here / "www" / "index.html").write_text("hello from nginx\n" * 30)
    (here / "nginx.conf").write_text(
        f"pid {here}/nginx.pid; error_log {here}/error.log; worker_processes 2; user root; daemon off;\n"
        "events { worker_connections 512; }\n"
        f"http {{ access_log off; sendfile on; server {{ listen 80; root {here}/www; }} }}\n"
    )
    world.start(world.far, "nginx", "-c", f"{here}/nginx.conf", "-p", str(here))
    world.listening(80)
    output = world.run(world.near, "wrk", "-t", "2", "-c", "40", "-d", "3", f"http://{world.far_address}/")
    if "Socket errors" in output or "Non-2xx" in output:
        raise Failure(f"wrk:\n{output}")
    return f"40 connections, {rate(r'Requests/sec: +([0-9.]+)', output, 'requests/s')}"


def redis(world: World) -> str:
    """redis-server, asked by redis-benchmark."""
    world.start(
        world.far, "redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "",
        "--dir", str(world.directory),
    )  # fmt: skip
    world.listening(6379)
    output = world.run(
        world.near, "redis-benchmark", "-h", world.far_address, "-n", "20000", "-c", "50", "-t", "get", "--csv"
    )
    return f"50 clients, {rate(r'^.GET.,.([0-9.]+)', output, 'GET/s')}"


def postgres(world: World) -> str:
    """A database of its own, with its user, and pgbench."""
    here = world.directory
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data = here / "pg"
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    binaries = Path(shutil.which("postgres") or "postgres").resolve().parent
    world.run(user, str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-N")
    (data / "pg_hba.conf").write_text("host all all 0.0.0.0/0 trust\n")
    world.start(
        world.far, *user, str(binaries / "postgres"), "-D", str(data), "-c", "listen_addresses=*", "-c", "fsync=off",
        "-c", f"unix_socket_directories={data}",
    )  # fmt: skip
    world.listening(5432)
    there = ("-h", world.far_address, "-U", "postgres")
    deadline = time.monotonic() + PATIENCE
    while "accepting" not in world.run(world.asking, "pg_isready", *there, check=False):
        if time.monotonic() > deadline:
            raise Failure(f"postgres does not become ready\n{world.logs()}")
    world.run(world.near, "pgbench", *there, "-i", "-q", "postgres")
    output = world.run(world.near, "pgbench", *there, "-c", "8", "-j", "2", "-T", "3", "postgres")
    if not re.search(r"number of failed transactions: 0\b", output):
        raise Failure(f"pgbench:\n{output}")
    return f"8 clients, {rate(r'^tps = ([0-9.]+)', output, 'transactions/s')}"


def iperf3(*options: str, udp: bool = False) -> Callable[[World], str]:
    """For two seconds."""
    def case(world: World) -> str:
        world.start(world.far, "iperf3", "-s", "-1")
        command = ("iperf3", "-c", world.far_address, "-t", "2", "-J", *options)
        deadline = time.monotonic() + PATIENCE
        while True:
            output = world.run(world.near, *command, check=False)
            try:
                told = json.loads(output[output.index("{") :])
            except ValueError:
                raise Failure(f"iperf3: {output}\n{world.logs()}") from None
            if "unable to connect" not in told.get("error", "") or time.monotonic() > deadline:
                break
        if "error" in told:
            raise Failure(f"iperf3: {told['error']}\n{world.logs()}")
        if udp:
            end = told["end"]["sum"]
            if not end["packets"] or end["lost_percent"] > 20:
                raise Failure(f"iperf3: {end}")
            return f"{end['bits_per_second'] / 1e6:,.0f} Mbit/s, {end['lost_percent']:.1f} % lost"
        return f"{told['end']['sum_received']['bits_per_second'] / 1e9:.2f} Gbit/s"

    return case


NAMESERVER: Final = """
import socket
from usernet.netd.supervisor.nameserver import Nameserver
zone = Nameserver({"www.test": ["192.0.2.1"], "big.test": [f"192.0.2.{n}" for n in range(200)]}, "test", "ns.test")
udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 53))
tcp = socket.create_server(("0.0.0.0", 53))
import threading
def datagrams():
    while True:
        wire, peer = udp.recvfrom(65535); udp.sendto(zone.answer(wire, 512), peer)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    s, _ = tcp.accept()
    with s, s.makefile("rwb") as file:
        while size := file.read(2):
            reply = zone.answer(file.read(int.from_bytes(size, "big")))
            file.write(len(reply).to_bytes(2, "big") + reply); file.flush()
"""


def dig(world: World) -> str:
    """Ask a nameserver, for something large too."""
    world.start(world.far, sys.executable, "-c", NAMESERVER)
    world.listening(53)
    server = f"@{world.far_address}"
    if world.run(world.near, "dig", "+short", server, "www.test") != "192.0.2.1\n":
        raise Failure("dig: not the address")
    # 200 addresses are too many for 1232 bytes of UDP: the answer is cut, and asked for again over TCP.
    if len(world.run(world.near, "dig", "+short", server, "big.test").split()) != 200:
        raise Failure("dig: not all addresses")
    return "over UDP, and over TCP where it is cut"


NODE_SERVER: Final = "require('http').createServer((q, a) => q.pipe(a)).listen(80)"
NODE_CLIENT: Final = """
const http = require('http'), body = Buffer.alloc(4 << 20, 'node')
const q = http.request({host: process.argv[1], method: 'POST'}, a => {
  const parts = []
  a.on('data', d => parts.push(d)).on('end', () => console.log(Buffer.concat(parts).equals(body) ? 'same' : 'other'))
})
q.end(body)
"""


def node(world: World) -> str:
    """Post to an echoing server, both of them node."""
    world.start(world.far, "node", "-e", NODE_SERVER)
    world.listening(80)
    if world.run(world.near, "node", "-e", NODE_CLIENT, world.far_address) != "same\n":
        raise Failure("node: what came back is not what was sent")
    return "4 MB posted, and echoed"


GO: Final = """
package main
import ("bytes"; "fmt"; "io"; "net/http"; "os"; "sync")
func main() {
    if os.Args[1] == "serve" {
        http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
        panic(http.ListenAndServe(":80", nil))
    }
    body := bytes.Repeat([]byte("go"), 1 << 19)
    var all sync.WaitGroup
    for i := 0; i < 20; i++ {
        all.Add(1)
        go func() {
            defer all.Done()
            a, err := http.Post("http://" + os.Args[1], "text/plain", bytes.NewReader(body))
            if err != nil { panic(err) }
            got, err := io.ReadAll(a.Body)
            if err != nil || !bytes.Equal(got, body) { panic("other") }
        }()
    }
    all.Wait()
    fmt.Println("same")
}
"""


def go_program() -> Path:
    """The Go program above, statically linked; built once."""
    cache = Path(tempfile.gettempdir()) / f"usernet-programs-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(GO.encode()).hexdigest()[:16]
    binary = cache / f"go-{name}"
    if not binary.exists():
        (cache / f"{name}.go").write_text(GO)
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOCACHE": str(cache / "build")}
        environment |= {"GO111MODULE": "off"}
        command = ["go", "build", "-o", str(binary), str(cache / f"{name}.go")]
        subprocess.run(command, check=True, env=environment, cwd=cache, timeout=300)
    return binary


def go(world: World) -> str:
    """The Go program, both ends."""
    binary = str(go_program())
    world.start(world.far, binary, "serve")
    world.listening(80)
    if world.run(world.near, binary, world.far_address) != "same\n":
        raise Failure("go: what came back is not what was sent")
    return "20 goroutines post 1 MB each, and get it back"


def socat(world: World) -> str:
    """An echoing server, and a client that half-closes."""
    world.start(world.far, "socat", "TCP-LISTEN:7,reuseaddr,fork", "EXEC:cat")
    world.listening(7)
    data = os.urandom(1 << 20)
    (world.directory / "sent").write_bytes(data)
    world.run(world.near, "sh", "-c", f"socat -t 10 - TCP:{world.far_address}:7 <sent >got")
    same(world, "got", hashlib.sha256(data).hexdigest())
    return "1 MB echoed"


def nc(world: World) -> str:
    """A file from one to the other."""
    data = os.urandom(1 << 20)
    (world.directory / "sent").write_bytes(data)
    world.start(world.far, "sh", "-c", "nc -l 9 >got")
    command = f"until nc -N {world.far_address} 9 <sent; do sleep 0.1; done"
    world.run(world.near, "sh", "-c", command, seconds=PATIENCE)
    got = world.directory / "got"
    world.until(lambda: got.exists() and got.stat().st_size == len(data), "all that nc sent")
    same(world, "got", hashlib.sha256(data).hexdigest())
    return "1 MB"


def openssl(world: World) -> str:
    """A page over TLS, with a certificate that is verified."""
    here = world.directory
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", here / "key", "-out", here / "cert",
         "-days", "1", "-subj", "/CN=far.test"], check=True, capture_output=True,
    )  # fmt: skip
    world.start(world.far, "openssl", "s_server", "-accept", "443", "-cert", "cert", "-key", "key", "-www", "-quiet")
    world.listening(443)
    output = world.run(
        world.near, "sh", "-c",
        f"(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | openssl s_client -connect {world.far_address}:443 "
        "-CAfile cert -verify_return_error -ign_eof",
    )  # fmt: skip
    if "Verify return code: 0 (ok)" not in output or "HTTP/1.0 200 ok" not in output:
        raise Failure(f"openssl s_client:\n{output}")
    return "TLS 1.3, verified" if "TLSv1.3" in output else "TLS, verified"


# -- the tools that look at a stack


def iproute(world: World) -> str:
    """Look at the stack, and change it."""
    script = """
        set -e
        ip -4 addr show; ip route; ping -c 1 -W 2 FAR >/dev/null; ip neigh
        ip addr add 10.99.0.1/24 dev eth0; ip addr show dev eth0 | grep -q 10.99.0.1/24
        ip route add 10.98.0.0/24 via FAR; ip route get 10.98.0.7; ip route del 10.98.0.0/24
        ip addr del 10.99.0.1/24 dev eth0
    """
    output = world.run(world.near, "sh", "-c", script.replace("FAR", world.far_address))
    for expected in (
        f"inet {world.near_address}/24",
        f"10.77.0.0/24 dev eth0 proto kernel scope link src {world.near_address}",
        f"{world.far_address} dev eth0 lladdr ",
        f"10.98.0.7 via {world.far_address} dev eth0 src ",
    ):
        if expected not in output:
            raise Failure(f"ip: {expected!r} is not in\n{output}")
    return "addr, route, neigh: shown, and changed"


def ss(world: World) -> str:
    """A listener, a connection, and its inside."""
    world.start(world.far, "nc", "-lk", "9")
    world.listening(9)
    script = "nc -l 7 & nc -d FAR 9 & sleep 0.5; ss -tanp; ss -tinH state established; kill %1 %2"
    output = world.run(world.near, "bash", "-c", script.replace("FAR", world.far_address))
    connection = rf"ESTAB +0 .*{world.far_address}:9"
    for expected in (r"LISTEN +0 .*0\.0\.0\.0:7 ", connection, r"(cubic|bbr) .*cwnd:10"):
        if not re.search(expected, output):
            raise Failure(f"ss: {expected!r} is not in\n{output}")
    return "-tanp, -ti"


def tcpdump(world: World) -> str:
    """See a handshake, as it happens and from a file."""
    world.start(world.far, "nc", "-lk", "9")
    world.listening(9)
    script = """
        tcpdump -ni eth0 -c 3 tcp port 9 & tcpdump -ni any -c 3 -w got tcp port 9 & sleep 1
        nc -zw 2 FAR 9; wait; tcpdump -nr got
    """
    output = world.run(world.near, "sh", "-c", script.replace("FAR", world.far_address))
    for expected in (f"> {world.far_address}.9: Flags [S]", "Flags [S.]", "eth0  Out IP", "eth0  In  IP"):
        if expected not in output:
            raise Failure(f"tcpdump: {expected!r} is not in\n{output}")
    return "a handshake, by a filter; -w and -r"


def ping(world: World) -> str:
    """Three echo requests."""
    output = world.run(world.near, "ping", "-c", "3", "-i", "0.2", world.far_address)
    if "3 received, 0% packet loss" not in output:
        raise Failure(f"ping:\n{output}")
    return "3 of 3"


CASES: Final[tuple[tuple[str, tuple[str, ...], Callable[[World], str], str], ...]] = (
    # name, programs that it takes, what is done, and which ends are of interest: client, server, both
    ("curl", ("curl",), curl, "client"),
    ("wget", ("wget",), wget, "client"),
    ("python3 -m http.server, urllib", ("python3",), python, "both"),
    ("ssh, sshd", ("ssh", "sshd", "ssh-keygen"), ssh, "both"),
    ("wrk, nginx", ("wrk", "nginx"), nginx, "both"),
    ("redis-benchmark, redis-server", ("redis-benchmark", "redis-server"), redis, "both"),
    ("pgbench, postgres", ("pgbench", "postgres", "setpriv"), postgres, "both"),
    ("iperf3", ("iperf3",), iperf3(), "both"),
    ("iperf3 -R", ("iperf3",), iperf3("-R"), "both"),
    ("iperf3 -P 8", ("iperf3",), iperf3("-P", "8"), "both"),
    ("iperf3 -u -b 50M", ("iperf3",), iperf3("-u", "-b", "50M", udp=True), "both"),
    ("dig", ("dig",), dig, "client"),
    ("node", ("node",), node, "both"),
    ("a static Go program", ("go",), go, "both"),
    ("socat", ("socat",), socat, "both"),
    ("nc", ("nc",), nc, "both"),
    ("openssl s_client, s_server", ("openssl",), openssl, "both"),
    ("ip", ("ip", "ping"), iproute, "client"),
    ("ss", ("ss", "nc"), ss, "client"),
    ("tcpdump", ("tcpdump", "nc"), tcpdump, "client"),
    ("ping", ("ping",), ping, "client"),
)

def missing(programs: Sequence[str]) -> list[str]:
    """Those that aren't installed."""
    return [program for program in programs if shutil.which(program) is None]


def attempt(case: Callable[[World], str], role: str, where: str) -> str:
    """Do it in a world of its own, with the program that is tested at the near end. Raises Failure."""
    with WORLDS[where]() as world:
        return case(world if role == "client" else world.swapped())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for number, row in enumerate((header, *rows)):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if not number:
            print("| " + " | ".join("-" * width for width in widths) + " |")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="those whose name contains it (default: all)")
    parser.add_argument("--exactly", action="store_true", help="those whose name it is")
    parser.add_argument("--on", choices=sorted(WORLDS), default="usernet")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--verbose", "-v", action="store_true", help="show all that a program printed that failed")
    arguments = parser.parse_args()
    chosen = [
        entry
        for entry in CASES
        if not arguments.programs
        or any(word == entry[0] if arguments.exactly else word in entry[0] for word in arguments.programs)
    ]
    if arguments.list:
        print(*(name for name, *_ in chosen), sep="\n")
        return 0
    if os.geteuid() != 0:
        sys.exit("this makes network namespaces and TAP devices: run it as root")
    rows = []
    failed = 0
    for name, programs, case, roles in chosen:
        results = []
        for role in ("client", "server"):
            if roles not in (role, "both"):
                results.append("")
                continue
            if absent := missing(programs):
                results.append(f"(needs {', '.join(absent)})")
                continue
            try:
                results.append(attempt(case, role, arguments.on))
            except (Failure, subprocess.SubprocessError, OSError) as problem:
                failed += 1
                first, _, rest = str(problem).partition("\n")
                results.append(f"FAILED: {first}")
                if arguments.verbose:
                    print(f"== {name}, as {role}: {first}\n{rest}", file=sys.stderr)
        rows.append((name, *results))
        print(f"{name}: {'; '.join(filter(None, results))}", file=sys.stderr)
    table(("program", "as client", "as server"), rows)
    print(f"\nusernet {usernet.__version__}; {len(rows)} programs, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
