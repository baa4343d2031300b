"""malloc keeps large buffers once it is told to: no page of them is faulted in anew."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from usernet.core.malloc import tune_malloc

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        held = [bytes(65536) for _ in range(64)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

untuned = faults()
if not tune_malloc():
    print("none"); sys.exit()
faults()
print(untuned, faults())
"""


def test_large_buffers_are_kept():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    if done.stdout.strip() == "none":
        return  # another C library: nothing was changed
    untuned, tuned = map(int, done.stdout.split())
    assert tuned < max(untuned // 2, 200)
