"""What goes by in each script, to the byte and the nanosecond: a line a script, with the digest of its frames.

    python tests/conformance/captures.py

test_captures.py compares what this prints in differently set interpreters.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from usernet.core.compiled import COMPILED
from usernet.packetdrill.command import find_scripts, run_file
from usernet.packetdrill.stack_device import ScriptDevice
from usernet.skbuff.skbuff import SKBuff

SCRIPTS = Path(__file__).parent

_xmit = ScriptDevice.xmit
_inject = ScriptDevice.inject


class Digest:
    """Of the frames of one script at a time."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.frames = 0

    def add(self, way: bytes, now: int, frame: bytes) -> None:
        self.frames += 1
        self.hash.update(b"%b %d %d " % (way, now, len(frame)))
        self.hash.update(frame)

    def take(self) -> str:
        line = f"{self.frames} {self.hash.hexdigest()}"
        self.__init__()  # type: ignore[misc]
        return line


def main() -> None:
    digest = Digest()

    def xmit(device: ScriptDevice, skb: SKBuff) -> bool:
        sent = len(device.sent)
        taken = _xmit(device, skb)
        for frame in device.sent[sent:]:
            digest.add(b"out", frame.time, frame.data)
        return taken

    def inject(device: ScriptDevice, packet: bytes, gso_size: int) -> None:
        digest.add(b"in", gso_size, packet)
        _inject(device, packet, gso_size)

    ScriptDevice.xmit = xmit  # type: ignore[method-assign, assignment]
    ScriptDevice.inject = inject  # type: ignore[method-assign, assignment]
    print("compiled" if COMPILED else "interpreted")
    for path in find_scripts([str(SCRIPTS)]):
        outcome = run_file(path)
        print(Path(path).name, outcome.status, digest.take())


if __name__ == "__main__":
    main()
