"""Buffers that are freed serve the next ones."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Final

import pytest

_FAULTS: Final = """
import resource, sys
from registryd.allocator import keep_buffers
if sys.argv[1] == "kept":
    keep_buffers()
def fill():
    for _ in range(50):
        buffers = [bytearray(1024 * 1024) for _ in range(4)]
        del buffers
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], stdout=subprocess.PIPE, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_buffers_are_kept() -> None:
    assert _faults("kept") < 1000 < _faults("not kept")
