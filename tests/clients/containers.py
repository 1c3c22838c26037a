"""podman, buildah and skopeo with storage and settings of the test's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .programs import Outcome, program, run, unavailable


class Containers:
    """The clients that share the containers/image library, over a temporary folder.

    ``registries`` is their registries.conf.
    """

    def __init__(self, folder: Path, registries: str = "unqualified-search-registries = []\n") -> None:
        settings = folder / ".config" / "containers"
        settings.mkdir(parents=True)
        (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (folder / "registries.conf").write_text(registries)
        (folder / "auth.json").write_text("{}")
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "TMPDIR": str(folder),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
            "REGISTRY_AUTH_FILE": str(folder / "auth.json"),
        }
        self._storage = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def _run(self, arguments: list[str | Path], expect: int | None) -> Outcome:
        return run(arguments, environment=self._environment, expect=expect)

    def podman(self, *arguments: str | Path, expect: int | None = 0) -> Outcome:
        return self._run([program("podman"), *self._storage, *arguments], expect)

    def buildah(self, *arguments: str | Path, expect: int | None = 0) -> Outcome:
        return self._run([program("buildah"), *self._storage, *arguments], expect)

    def skopeo(self, *arguments: str | Path, expect: int | None = 0) -> Outcome:
        return self._run([program("skopeo"), *arguments], expect)

    def need_storage(self) -> None:
        """End the test as ``unavailable`` does where podman and buildah cannot keep images here."""
        for tool in (self.podman, self.buildah):
            outcome = tool("info", expect=None)
            if outcome.code != 0:
                unavailable(f"{tool.__name__} does not work here: {outcome.stderr.strip()[-300:]}")

    def inspect(self, name: str) -> Any:
        """What podman knows of an image in its storage."""
        return json.loads(self.podman("image", "inspect", name).stdout)[0]

    def forget(self, *names: str) -> None:
        self.podman("rmi", "--force", *names)
