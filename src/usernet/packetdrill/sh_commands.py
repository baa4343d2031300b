"""The commands of shell lines: what each asks of the stack.

`sh` splits the lines and calls `Commands.run`, which ends at a `Shell`. Known are the tools of the public corpora, with
the arguments that people give them; another command is an error with its name, never silence. A script such as
`../common/defaults.sh` is read from where it lies and carried out the same way, line by line; where a corpus lies
without that file, `defaults.sh` has what the suites' own sets.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Final, final

from usernet.ip.metrics import ROUTE_FEATURES, ROUTE_METRICS, TIMES
from usernet.packetdrill import sh
from usernet.packetdrill.errors import BadEvent
from usernet.packetdrill.sh import Exit, Result
from usernet.packetdrill.sh_tools import NETSTAT, SNMP, TOOLS, Usage, counters_text, number
from usernet.packetdrill.shell import ADD, APPEND, CHANGE, DELETE, REPLACE, QdiscChange, RouteChange, Shell

NSEC_PER_SEC: Final = 1_000_000_000
PROCESS_ID: Final = "1"  # $PPID and $PACKETDRILL_PID: the interpreter's, which only names a file
NOT_FOUND: Final = 127
MAX_SLEEP: Final = 24 * 3600 * NSEC_PER_SEC  # of one `sleep`

DEFAULTS: Final = """
ip tcp_metrics flush all
sysctl -q net.ipv4.tcp_rmem="4096 540000 15728640" net.ipv4.tcp_wmem="4096 262144 4194304"
sysctl -q net.ipv4.tcp_timestamps=1 net.ipv4.tcp_syn_retries=5 net.ipv4.tcp_synack_retries=5 net.ipv4.tcp_frto=2
sysctl -q net.ipv4.tcp_sack=1 net.ipv4.tcp_dsack=1 net.ipv4.tcp_fack=0 net.ipv4.tcp_reordering=3
sysctl -q net.ipv4.tcp_congestion_control=cubic net.ipv4.tcp_slow_start_after_idle=0
sysctl -q net.ipv4.tcp_early_retrans=4 net.ipv4.tcp_recovery=1 net.ipv4.tcp_tso_win_divisor=3 net.ipv4.tcp_ecn=0
sysctl -q net.ipv4.tcp_pacing_ss_ratio=200 net.ipv4.tcp_pacing_ca_ratio=120 net.ipv4.tcp_notsent_lowat=4294967295
sysctl -q net.ipv4.tcp_fastopen=0x70403 net.ipv4.tcp_fastopen_key=a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4
sysctl -q net.ipv4.tcp_syncookies=1
tc qdisc add dev tun0 root pfifo
"""

_ACTIONS: Final = {
    "add": ADD, "a": ADD, "change": CHANGE, "chg": CHANGE, "replace": REPLACE, "append": APPEND,
    "delete": DELETE, "del": DELETE, "d": DELETE,
}
_TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|ms|us)?")
_SYSCTL_ROOT: Final = "/proc/sys/"
_MODULE_FILE: Final = re.compile(r"/sys/module/(\w+)/parameters/(\w+)")
_RESTORE_FILE: Final = re.compile(r"/tmp/sysctl_restore_\w+\.sh")


@final
class Commands:
    """Runs shell lines for one script.

    shell: where actions go. directory: where relative paths start, the script's own.
    """

    def __init__(self, shell: Shell, directory: str) -> None:
        self.shell = shell
        self.directory = directory
        self._saved: list[tuple[str, str]] = []
        self._counters: dict[str, int] = {}
        self._files: dict[str, str] = {}
        self._depth = 0
        self._variables = {"PPID": PROCESS_ID, "PACKETDRILL_PID": PROCESS_ID}
        self._commands: dict[str, Callable[[list[str], str], Result]] = {
            "sysctl": self._sysctl,
            "ip": self._ip,
            "tc": self._tc,
            "ethtool": self._ethtool,
            "nstat": self._nstat,
            "cat": self._cat,
            "sleep": self._sleep,
            "usleep": self._sleep,
            "dd": self._dd,
            "rm": self._rm,
            "exit": self._exit,
            "set_sysctls.py": self._set_sysctls,
            **TOOLS,
        }

    def names(self) -> list[str]:
        """What is known."""
        return sorted(self._commands)

    def run(self, text: str) -> Result:
        """Run shell lines. Returns the last command's status and all messages. Raises BadEvent for what is no shell."""
        return sh.run(text, self._variables, self._command, self._read, self._write)

    # ------------------------------------------------------------ one command

    def _command(self, words: list[str], piped: str) -> Result:
        name = words[0]
        if "=" in name and name.split("=", 1)[0].isidentifier():
            variable, value = name.split("=", 1)
            if len(words) == 1:
                self._variables[variable] = value
                return Result()
            return self._command(words[1:], piped)
        if name == "sudo" and len(words) > 1:
            return self._command(words[1:], piped)
        base = os.path.basename(name)
        command = self._restore if _RESTORE_FILE.fullmatch(name) else self._commands.get(base)
        if command is None:
            return self._script(name)
        try:
            return command(words, piped)
        except Usage as bad:
            return Result(2, errors=f"{base}: {bad}\n")
        except OSError as failed:
            return Result(1, errors=f"{base}: {failed.strerror or failed}: {' '.join(words[1:])}\n")

    def _script(self, name: str) -> Result:
        """A shell script, read from its file and run here."""
        if not name.endswith(".sh"):
            # Not the 127 of a shell: a line that silently does nothing makes every line after it a riddle.
            raise BadEvent(f"found the shell command '{name}', expected one of {', '.join(self.names())}")
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8") as file:
                text = file.read()
        except OSError as failed:
            if os.path.basename(name) != "defaults.sh":
                return Result(NOT_FOUND, errors=f"{name}: {failed.strerror}\n")
            text = DEFAULTS
        if self._depth >= sh.MAX_DEPTH:
            raise BadEvent(f"found {name} called by itself, expected at most {sh.MAX_DEPTH} levels")
        self._depth += 1
        try:
            return self.run(text)
        finally:
            self._depth -= 1

    def _exit(self, words: list[str], piped: str) -> Result:
        raise Exit(number(words[1]) & 0xFF if len(words) > 1 else int(self._variables.get("?", "0")))

    # ------------------------------------------------------------ files

    def _write(self, path: str, text: str, append: bool) -> str:
        """Write to a file of the stack's host: a sysctl, a module's parameter, or a file of the script's own."""
        try:
            if path.startswith(_SYSCTL_ROOT) and text:
                self.shell.sysctl_set(_sysctl_name(path), text.strip())
            elif match := _MODULE_FILE.fullmatch(path):
                self.shell.module_parameter_set(match[1], match[2], text.strip())
            elif path.startswith("/tmp/"):
                self._files[path] = (self._files.get(path, "") if append else "") + text
                self.shell.file_write(path, self._files[path].encode())
            else:
                return f"{path}: found a file that is not known here, expected /proc/sys, /sys/module or /tmp\n"
        except OSError as failed:
            return f"{path}: {failed.strerror or failed}\n"
        return ""

    def _read(self, path: str) -> str:
        """A file's text. Raises OSError (ENOENT for a file that is not known here)."""
        if path.startswith(_SYSCTL_ROOT):
            return self.shell.sysctl_get(_sysctl_name(path)) + "\n"
        if match := _MODULE_FILE.fullmatch(path):
            return self.shell.module_parameter_get(match[1], match[2]) + "\n"
        if path in ("/proc/net/snmp", "/proc/net/netstat"):
            return counters_text(self.shell.counters(), SNMP if path.endswith("snmp") else NETSTAT)
        if path in self._files:
            return self._files[path]
        if path == "/dev/null":
            return ""
        raise FileNotFoundError(errno.ENOENT, "found a file that is not known here, expected one of /proc/sys, "
                                "/sys/module, /proc/net/snmp, /proc/net/netstat, or the script's own in /tmp")

    def _cat(self, words: list[str], piped: str) -> Result:
        return Result(output="".join(self._read(path) for path in words[1:]) if len(words) > 1 else piped)

    def _dd(self, words: list[str], piped: str) -> Result:
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        if given.get("if") != "/dev/zero" or "of" not in given:
            raise Usage("found other files, expected if=/dev/zero and of=FILE")
        size = _count(given.get("bs", "512")) * _count(given.get("count", "1"))
        if size > 1 << 28:
            raise Usage(f"found {size} bytes, expected at most {1 << 28}")
        self.shell.file_write(given["of"], bytes(size))
        return Result()

    def _rm(self, words: list[str], piped: str) -> Result:
        for path in words[1:]:
            if not path.startswith("-"):
                self.shell.file_write(path, None)
        return Result()

    # ------------------------------------------------------------ sysctls

    def _sysctl(self, words: list[str], piped: str) -> Result:
        result = Result()
        flags = "".join(word for word in words[1:] if word.startswith("-"))
        for word in words[1:]:
            if word.startswith("-"):
                continue
            name, equals, value = word.partition("=")
            name = _sysctl_name(name)
            try:
                if equals:
                    self.shell.sysctl_set(name, value)
                else:
                    value = self.shell.sysctl_get(name)
            except OSError as failed:
                result.errors += f"sysctl: {name}: {failed.strerror or failed}\n"
                result.status = 255
                continue
            if not ("q" in flags and equals):
                result.output += f"{value}\n" if "n" in flags else f"{name} = {value}\n"
        return result

    def _set_sysctls(self, words: list[str], piped: str) -> Result:
        """`set_sysctls.py /proc/sys/…=value …`: sets, and remembers what was, for the file that restores it."""
        self._saved.clear()
        for word in words[1:]:
            path, _, value = word.partition("=")
            name = _sysctl_name(path)
            self._saved.append((name, self.shell.sysctl_get(name)))
            try:
                self.shell.sysctl_set(name, value)
            except OSError:
                continue  # the original does not look
        return Result()

    def _restore(self, words: list[str], piped: str) -> Result:
        for name, value in self._saved:
            self.shell.sysctl_set(name, value)
        return Result()

    # ------------------------------------------------------------ ip

    def _ip(self, words: list[str], piped: str) -> Result:
        rest = words[1:]
        version = 4
        while rest and rest[0].startswith("-"):
            if rest[0] == "-6":
                version = 6
            elif rest[0] != "-4":
                raise Usage(f"found the option {rest[0]}, expected -4 or -6")
            rest = rest[1:]
        if len(rest) < 2:
            raise Usage("found no command, expected route, tcp_metrics or link, and what to do")
        what, action, rest = rest[0], rest[1], rest[2:]
        if "route".startswith(what):
            self.shell.route(_route(version, action, rest))
        elif what in ("tcp_metrics", "tcpmetrics"):
            address = "" if not rest or rest[0] == "all" else rest[-1]
            if "show".startswith(action) or "list".startswith(action):
                return Result(output=self.shell.metrics_show(address))
            if not ("flush".startswith(action) or "delete".startswith(action)):
                raise Usage(f"found 'tcp_metrics {action}', expected show, flush or delete")
            if "delete".startswith(action) and not address:
                raise Usage("found no address, expected the one to forget")
            self.shell.metrics_flush(address)
        elif "link".startswith(what) and action == "set":
            device, settings = _link(rest)
            self.shell.link(device, settings)
        else:
            raise Usage(f"found '{what} {action}', expected route, tcp_metrics or link set")
        return Result()

    def _tc(self, words: list[str], piped: str) -> Result:
        if len(words) < 3 or words[1] != "qdisc" or words[2] not in _ACTIONS:
            raise Usage(f"found '{' '.join(words[1:3])}', expected qdisc and add, change, replace or delete")
        change = QdiscChange(_ACTIONS[words[2]], "", "")
        rest = words[3:]
        while rest and not change.kind:
            word = rest.pop(0)
            if word == "dev":
                change.device = _value(rest, word)
            elif word in ("root", "ingress", "clsact"):
                change.parent = word
            elif word == "parent":
                change.parent = _value(rest, word)
            elif word == "handle":
                change.handle = _value(rest, word)
            else:
                change.kind = word
        if not change.device or not change.parent:
            raise Usage("found no device or no parent, expected 'dev NAME root'")
        change.arguments = rest
        self.shell.qdisc(change)
        return Result()

    def _ethtool(self, words: list[str], piped: str) -> Result:
        if len(words) < 5 or words[1] not in ("-K", "--offload", "--features") or len(words) % 2 == 0:
            raise Usage("found other arguments, expected -K DEVICE FEATURE on|off …")
        features: dict[str, bool] = {}
        for name, state in zip(words[3::2], words[4::2], strict=True):
            if state not in ("on", "off"):
                raise Usage(f"found '{name} {state}', expected on or off")
            features[name] = state == "on"
        self.shell.features(words[2], features)
        return Result()

    # ------------------------------------------------------------ looking

    def _nstat(self, words: list[str], piped: str) -> Result:
        """Counters that grew since the last call, in nstat's layout; -n only remembers, -a is from zero, -z all."""
        flags = "".join(word[1:] for word in words[1:] if word.startswith("-") and not word.startswith("--"))
        patterns = [word for word in words[1:] if not word.startswith("-")]
        counters = self.shell.counters()
        lines = ["#kernel"]
        for name, value in counters.items():
            growth = value if "a" in flags else value - self._counters.get(name, 0)
            wanted = not patterns or any(re.fullmatch(p.replace("*", ".*"), name) for p in patterns)
            if wanted and (growth or "z" in flags):
                lines.append(f"{name:<32}{growth:<16}{'0.0':>6}")
        if "s" not in flags:
            self._counters = dict(counters)
        return Result(output="" if "n" in flags else "\n".join(lines) + "\n")

    def _sleep(self, words: list[str], piped: str) -> Result:
        total = 0
        for word in words[1:]:
            match = _TIME.fullmatch(word)
            if match is None:
                raise Usage(f"found '{word}', expected a time in seconds")
            unit = {"ms": 1_000_000, "us": 1_000}.get(match[2], 1_000 if words[0] == "usleep" else NSEC_PER_SEC)
            total += int(float(match[1]) * unit)
        if total > MAX_SLEEP:
            raise Usage(f"found a time of {total // NSEC_PER_SEC} s, expected at most {MAX_SLEEP // NSEC_PER_SEC}")
        self.shell.sleep(total)
        return Result()


def _sysctl_name(path: str) -> str:
    """A sysctl's name with dots, from a name with dots or slashes or a path in /proc/sys."""
    name = path.removeprefix(_SYSCTL_ROOT)
    return name.replace("/", ".") if "/" in name else name


def _value(rest: list[str], name: str) -> str:
    if not rest:
        raise Usage(f"found '{name}' at the end, expected its value")
    return rest.pop(0)


def _count(text: str) -> int:
    """A number with dd's suffix."""
    factor = {"k": 1024, "K": 1024, "M": 1 << 20}.get(text[-1:], 1)
    digits = text[:-1] if factor != 1 else text
    if not digits.isdecimal():
        raise Usage(f"found '{text}', expected a number")
    return int(digits) * factor


def _metric(name: str, text: str) -> int:
    """A metric's number; times in ms."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise Usage(f"found '{name} {text}', expected a number")
    if name in TIMES:
        return int(float(match[1]) * {"s": 1000.0, "us": 0.001}.get(match[2], 1.0))
    if "." in match[1] or match[2]:
        raise Usage(f"found '{name} {text}', expected a whole number")
    return int(match[1])


def _route(version: int, action: str, rest: list[str]) -> RouteChange:
    """What `ip route` is asked to do."""
    if action not in _ACTIONS:
        raise Usage(f"found 'route {action}', expected add, change, replace, append or delete")
    rest = list(rest)
    change = RouteChange(_ACTIONS[action], version, "")
    while rest:
        word = rest.pop(0)
        if word in ROUTE_METRICS and word != "features":
            value = _value(rest, word)
            if value == "lock":
                change.locked.add(word)
                value = _value(rest, f"{word} lock")
            change.metrics[word] = _metric(word, value)
        elif word == "via":
            change.via = _value(rest, word)
            if change.via in ("inet", "inet6"):
                change.via = _value(rest, word)
        elif word in ("dev", "oif"):
            change.device = _value(rest, word)
        elif word == "src":
            change.source = _value(rest, word)
        elif word == "table":
            change.table = _value(rest, word)
        elif word == "congctl":
            change.congctl = _value(rest, word)
            if change.congctl == "lock":
                change.locked.add("congctl")
                change.congctl = _value(rest, "congctl lock")
        elif word == "features":
            change.metrics["features"] = change.metrics.get("features", 0) | _feature(_value(rest, word))
        elif word in ("proto", "scope", "metric", "preference", "pref"):
            _value(rest, word)
        elif word in ("onlink", "unicast"):
            continue
        elif not change.destination:
            change.destination = _value(rest, word) if word == "to" else word
        else:
            raise Usage(f"found '{word}', expected an argument of a route")
    if not change.destination:
        raise Usage("found no destination, expected one")
    return change


def _feature(name: str) -> int:
    """RTAX_FEATURE_*: the bits of a route's features."""
    if name not in ROUTE_FEATURES:
        raise Usage(f"found 'features {name}', expected ecn or tcp_usec_ts")
    return ROUTE_FEATURES[name]


def _link(rest: list[str]) -> tuple[str, dict[str, str]]:
    """A device's name and what `ip link set` is asked to set."""
    rest = list(rest)
    device = ""
    settings: dict[str, str] = {}
    while rest:
        word = rest.pop(0)
        if word in ("up", "down"):
            settings["state"] = word
        elif word in ("mtu", "txqueuelen", "qlen", "gso_max_size", "gso_max_segs", "gro_max_size", "address"):
            settings["txqueuelen" if word == "qlen" else word] = _value(rest, word)
        elif not device:
            device = _value(rest, word) if word == "dev" else word
        else:
            raise Usage(f"found '{word}', expected up, down, mtu, txqueuelen or gso_max_size")
    if not device:
        raise Usage("found no device, expected one")
    return device, settings
