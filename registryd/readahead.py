"""Having the system read what is sent next: who waits for a disk on the reactor's thread holds up everybody."""

from __future__ import annotations

import os
from typing import Final

PIECE: Final = 1024 * 1024
"""Bytes of which the end tells whether they are in memory."""

_ASKED_AT_ONCE: Final = 128 * 1024
# Not everywhere, as with C libraries without preadv2(2).
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)


def read_ahead(file: int, start: int, stop: int) -> None:
    """Have the system read a part of a file into memory, without waiting for it, but for the pieces that are there."""
    for piece in range(start, stop, PIECE):
        end = min(piece + PIECE, stop)
        # To ask for what is there already costs a fifth of what it costs to send it.
        if not _is_in_memory(file, end - 1):
            # Of more than a device takes at once, the system reads the beginning alone.
            for part in range(piece, end, _ASKED_AT_ONCE):
                os.posix_fadvise(file, part, min(_ASKED_AT_ONCE, end - part), os.POSIX_FADV_WILLNEED)


def _is_in_memory(file: int, position: int) -> bool:
    if _NOWAIT is None:
        return False
    try:
        return os.preadv(file, [bytearray(1)], position, _NOWAIT) == 1
    except (OSError, NotImplementedError):
        return False  # It would wait, or the file system cannot tell; or the C library has no preadv2.
