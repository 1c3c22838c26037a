"""File systems of their own, in files, for what cannot be done to one that others use; only root may mount them."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.programs import program, root_only, run

_SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN, ``_IOR('X', 125, __u32)``. Source: linux/fs.h."""

_WITHOUT_JOURNAL = struct.pack("I", 2)
"""FS_SHUTDOWN_FLAGS_NOLOGFLUSH: what is in memory only, the journal's last transactions with it, is lost."""


class Disk:
    """An ext4 in a file, mounted on a folder."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self._image = image

    def freeze(self) -> None:
        """Let whoever writes wait."""
        run([program("fsfreeze"), "--freeze", self.folder])

    def thaw(self, *, expect: int | None = 0) -> None:
        run([program("fsfreeze"), "--unfreeze", self.folder], expect=expect)

    def sync(self) -> None:
        """Let all that was written be on it."""
        run([program("sync"), "--file-system", self.folder])

    def cut_power(self) -> None:
        """Lose what only the kernel has, as a machine that goes dark does, and start again; nobody may use it then."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, _WITHOUT_JOURNAL)
        finally:
            os.close(folder)
        run([program("umount"), self.folder])
        self._mount()

    def _mount(self, *, expect: int | None = 0) -> str | None:
        """Mount it; why it cannot be."""
        mounted = run([program("mount"), "-o", "loop", self._image, self.folder], expect=expect)
        return mounted.stderr.strip() if mounted.code else None

    @classmethod
    @contextmanager
    def mounted(cls, place: Path, size: int) -> Iterator[Disk]:
        """A new one of so many bytes, in a folder that is there; skips the test where there can be none."""
        root_only("a file system of its own")
        disk = cls(place / "image", place / "disk")
        disk.folder.mkdir()
        with disk._image.open("wb") as file:
            file.truncate(size)
        run([program("mkfs.ext4"), "-q", disk._image])
        failure = disk._mount(expect=None)
        if failure is not None:
            # In a container, say: no package would help.
            pytest.skip(f"a file system in a file cannot be mounted here: {failure}")
        try:
            yield disk
        finally:
            disk.thaw(expect=None)
            run([program("umount"), disk.folder])
