"""What the C library does with freed memory, on which the cost of large buffers depends."""

from __future__ import annotations

import ctypes
from typing import Final

# Source: mallopt(3).
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

_LARGEST: Final = 8 * 1024 * 1024
_KEPT: Final = 16 * 1024 * 1024


def keep_buffers() -> None:
    """Let the process keep up to 16 MiB of freed buffers for the next ones, where its C library is glibc.

    By itself glibc gives most that bodies are read into back to the system, which has to clear other pages for the
    next: a twentieth of what a push costs.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _KEPT)
