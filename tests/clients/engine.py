"""A Docker engine of the test's own, with its containerd, in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .programs import Outcome, Service, program, root_only, run, unavailable, wait_until

_NAMESPACE = "registryd"


class Engine:
    """dockerd without networks; ``settings`` stands for ``/etc/docker`` in its eyes alone.

    The folder's path is short, because those of unix sockets must be.
    """

    def __init__(self, folder: Path) -> None:
        root_only("dockerd")
        self._docker, self._ctr = program("docker"), program("ctr")
        self._environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "client"),
            "DOCKER_CLI_EXPERIMENTAL": "enabled",
            "HOME": str(folder),
        }
        self.settings = folder / "etc"
        self.settings.mkdir()
        self._containerd = folder / "exec" / "containerd" / "containerd.sock"
        self._service = Service(self._command(folder), folder / "dockerd.log", self._environment)
        try:
            self._service.ready(lambda: self.docker("version", expect=None).code == 0)
        except AssertionError as error:
            unavailable(f"dockerd does not start here: {error}")

    def _command(self, folder: Path) -> list[str]:
        # A mount namespace of its own: certs.d is looked for in /etc/docker alone, and the machine's is not ours.
        Path("/etc/docker").mkdir(exist_ok=True)
        script = f'mount --bind "{self.settings}" /etc/docker && exec "$@"'
        options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--host", f"unix://{folder}/docker.sock"]
        paths = {"--data-root": "root", "--exec-root": "exec", "--pidfile": "pid"}
        for option, name in paths.items():
            options += [option, str(folder / name)]
        shell = [program("unshare"), "--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"]
        program("containerd"), program("runc")
        return [*shell, program("dockerd"), *options]

    def stop(self) -> None:
        self._service.stop()

    @contextmanager
    def mirrors(self, *urls: str) -> Iterator[None]:
        """For a while, ask these for Docker Hub's images, in their order, before Docker Hub itself."""
        self._reload_mirrors(urls)
        try:
            yield
        finally:
            self._reload_mirrors(())

    def _reload_mirrors(self, urls: tuple[str, ...]) -> None:
        (self.settings / "daemon.json").write_text(json.dumps({"registry-mirrors": urls}))
        self._service.process.send_signal(signal.SIGHUP)
        wanted = [f"{url}/" for url in urls]
        wait_until(lambda: self._mirrors() == wanted, 10, f"docker has the mirrors {wanted}")

    def _mirrors(self) -> list[str]:
        return json.loads(self.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}").stdout) or []

    def docker(
        self, *arguments: str | Path, content: bytes | None = None, expect: int | None = 0, seconds: float = 60
    ) -> Outcome:
        """Run the docker client."""
        command = [self._docker, *arguments]
        return run(command, content=content, environment=self._environment, expect=expect, seconds=seconds)

    def ctr(self, *arguments: str | Path, expect: int | None = 0, seconds: float = 60) -> Outcome:
        """Run containerd's client against the engine's containerd, in a namespace that the engine does not use."""
        command = [self._ctr, "--address", self._containerd, "--namespace", _NAMESPACE, *arguments]
        return run(command, environment=self._environment, expect=expect, seconds=seconds)

    def digests(self) -> dict[str, str]:
        """The names and digests of containerd's images."""
        lines = self.ctr("images", "list").stdout.splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}

    def forget_pulled(self, *names: str) -> None:
        """Remove images, and all that only they consist of, from containerd."""
        self.ctr("images", "rm", "--sync", *names)

    def push(self, name: str) -> str:
        """Push an image; the digest that docker tells."""
        said = self.docker("push", name).stdout
        match = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
        assert match is not None, said
        return match[1]

    def inspect(self, name: str) -> Any:
        return json.loads(self.docker("image", "inspect", name).stdout)[0]

    def forget(self, *names: str) -> None:
        self.docker("rmi", "--force", *names)
