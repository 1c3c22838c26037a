"""Real clients that pull through a mirror, and push beside it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.daemon import Daemon

from .containers import Containers
from .distribution import Distribution
from .engine import Engine
from .images import HERE, Image, assert_whole, image, layout_digest, push, root_tar, two_platforms
from .mirroring import HUB, OTHER, mirror, write_hosts
from .v2 import V2

FROM = "--src-tls-verify=false"


@attrs.frozen
class Scene:
    """A daemon that mirrors two upstreams beside private repositories below ``team/``."""

    hub: Distribution
    other: Distribution
    daemon: Daemon

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.daemon.port}"

    def switch_off(self) -> None:
        """End both upstreams, and let the daemon start without them; what it has told so far is old at once."""
        self.hub.stop()
        self.other.stop()
        self.daemon.restart()


@contextmanager
def set_up(folder: Path) -> Iterator[Scene]:
    with (
        Distribution(folder / "hub" / "store", folder / "hub") as hub,
        Distribution(folder / "other" / "store", folder / "other") as other,
    ):
        upstreams = {HUB: {"remoteurl": f"http://{hub.address}"}, OTHER: {"remoteurl": f"http://{other.address}"}}
        with mirror(upstreams, default=HUB, private=["team/**"], freshness="0s") as daemon:
            yield Scene(hub, other, daemon)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with set_up(tmp_path) as scene:
        yield scene


def built_by_docker(engine: Engine, registry: Distribution, repository: str) -> str:
    """Let docker build an image and push it to a registry; its ID."""
    name = f"{registry.address}/{repository}:1"
    engine.docker("import", "--change", 'CMD ["/bin/cat", "/message"]', "-", name, content=root_tar(repository))
    engine.push(name)
    identity = str(engine.inspect(name)["Id"])
    engine.forget(name)
    return identity


def docker_pulls(engine: Engine, name: str, message: str) -> None:
    """Check that docker gets an image anew, and can run it."""
    engine.docker("rmi", "--force", name)
    engine.docker("pull", name)
    assert engine.docker("run", "--rm", "--network", "none", name).stdout == message
    engine.forget(name)


def containerd_pulls(engine: Engine, certs: Path, name: str, digest: str) -> None:
    """Check that containerd gets an image anew."""
    engine.ctr("images", "pull", "--hosts-dir", certs, name)
    assert engine.digests()[name] == digest
    engine.forget_pulled(name)


def test_the_upstreams_are_switched_off_and_all_of_it_still_pulls(
    engine: Engine, scene: Scene, repository: str, tmp_path: Path
) -> None:
    """A Docker engine pulls Hub's images, containerd from two upstreams, and a team pushes its own: all one daemon."""
    official, certs = repository.replace("/", "-"), tmp_path / "certs.d"
    built_by_docker(engine, scene.hub, f"library/{official}")
    theirs = {HUB: image([root_tar("of the hub")]), OTHER: image([root_tar("of the other")])}
    push(scene.hub.connect(), repository, "1", theirs[HUB])
    push(scene.other.connect(), repository, "1", theirs[OTHER])
    with engine.mirrors(scene.daemon.url):
        docker_pulls(engine, f"{official}:1", f"library/{official}")
        for host, subject in theirs.items():
            write_hosts(certs, host, "http://127.0.0.1:1", scene.daemon.url)
            containerd_pulls(engine, certs, f"{host}/{repository}:1", subject.digest)
    own = f"{scene.address}/team/{repository}:1"
    engine.docker("import", "--change", 'CMD ["/bin/cat", "/message"]', "-", own, content=root_tar("our own"))
    pushed = engine.push(own)

    scene.switch_off()

    for host in theirs:
        write_hosts(certs / "after", host, "http://127.0.0.1:1", scene.daemon.url)
    with engine.mirrors(scene.daemon.url):
        docker_pulls(engine, f"{official}:1", f"library/{official}")
        for host, subject in theirs.items():
            containerd_pulls(engine, certs / "after", f"{host}/{repository}:1", subject.digest)
    engine.forget(own)
    own = f"{scene.address}/team/{repository}:1"
    docker_pulls(engine, own, "our own")
    assert f"Digest: {pushed}" in engine.docker("pull", own).stdout


def test_docker_takes_its_platform_of_many(engine: Engine, scene: Scene, repository: str) -> None:
    index = two_platforms(repository)
    push(scene.hub.connect(), repository, "1", index)
    with engine.mirrors(scene.daemon.url):
        assert f"Digest: {index.digest}" in engine.docker("pull", f"{repository}:1").stdout
        assert engine.inspect(f"{repository}:1")["Architecture"] == HERE
        engine.forget(f"{repository}:1")
        engine.docker("pull", f"{repository}@{index.images[0].digest}")
    elsewhere = index.images[1].layers[0].digest
    assert scene.hub.asked(f"/v2/{repository}/blobs/{elsewhere}") == 0


def test_docker_pulls_by_the_name_of_the_upstream(engine: Engine, scene: Scene, repository: str) -> None:
    """Without ``registry-mirrors``: the upstream is the first part of the path."""
    built_by_docker(engine, scene.other, repository)
    docker_pulls(engine, f"{scene.address}/{OTHER}/{repository}:1", repository)


def test_docker_cannot_push_to_a_mirror(engine: Engine, scene: Scene, repository: str) -> None:
    name = f"{scene.address}/{OTHER}/{repository}:1"
    engine.docker("import", "-", name, content=root_tar(repository, busybox=False))
    outcome = engine.docker("push", name, expect=1)
    assert "unsupported" in outcome.said
    engine.forget(name)


def test_docker_mirrors_by_the_config_file_of_distribution(engine: Engine, repository: str, tmp_path: Path) -> None:
    with Distribution(tmp_path / "store", tmp_path) as hub:
        built_by_docker(engine, hub, repository)
        with (
            Daemon(proxy={"remoteurl": f"http://{hub.address}", "ttl": "168h"}) as daemon,
            engine.mirrors(daemon.url),
        ):
            docker_pulls(engine, f"{repository}:1", repository)
            hub.stop()
            docker_pulls(engine, f"{repository}:1", repository)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Distribution]:
    """The registry that clients ask when the mirror does not have what they want."""
    with Distribution(tmp_path / "origin" / "store", tmp_path / "origin") as origin:
        yield origin


DEAD = {"remoteurl": "http://127.0.0.1:1"}


def test_docker_asks_the_origin_for_what_is_not_cached(engine: Engine, origin: Distribution, repository: str) -> None:
    built_by_docker(engine, origin, repository)
    with mirror({HUB: DEAD}, default=HUB) as daemon, engine.mirrors(daemon.url, f"http://{origin.address}"):
        docker_pulls(engine, f"{repository}:1", repository)
        daemon.out.wait_for(re.escape(f"/v2/{repository}/manifests/1"))


def test_docker_asks_the_origin_for_layers_that_are_gone(
    engine: Engine, origin: Distribution, repository: str, tmp_path: Path
) -> None:
    """The manifest is cached, a layer is not there any more, and the upstream is down."""
    built_by_docker(engine, origin, repository)
    with (
        Distribution(tmp_path / "origin" / "store", tmp_path / "hub") as hub,
        mirror({HUB: {"remoteurl": f"http://{hub.address}"}}, default=HUB, freshness="0s") as daemon,
        engine.mirrors(daemon.url, f"http://{origin.address}"),
    ):
        docker_pulls(engine, f"{repository}:1", repository)
        manifest = V2("127.0.0.1", daemon.port).manifest(repository, "1").expect(200)
        hub.stop()
        value = manifest.json["layers"][0]["digest"].partition(":")[2]
        (daemon.tree / "blobs" / "sha256" / value[:2] / value / "data").unlink()
        docker_pulls(engine, f"{repository}:1", repository)
    assert origin.asked(f"/v2/{repository}/blobs/{manifest.json['layers'][0]['digest']}") == 1


@pytest.mark.parametrize("upstreams", [{HUB: DEAD}, {OTHER: DEAD}], ids=["not configured", "down"])
def test_containerd_asks_the_origin(
    engine: Engine, origin: Distribution, repository: str, tmp_path: Path, upstreams: dict[str, dict[str, str]]
) -> None:
    subject = two_platforms(repository)
    push(origin.connect(), repository, "1", subject)
    with mirror(upstreams) as daemon:
        write_hosts(tmp_path / "certs.d", OTHER, f"http://{origin.address}", daemon.url)
        containerd_pulls(engine, tmp_path / "certs.d", f"{OTHER}/{repository}:1", subject.digest)
        daemon.out.wait_for(re.escape(f"/v2/{repository}/manifests/1?ns={OTHER}"))


def registries(daemon: Daemon, *locations: tuple[str, str]) -> str:
    """A registries.conf by which hosts are asked for through a daemon; each with the location of its origin."""
    lines = []
    for host, location in locations:
        lines += ["[[registry]]", f'prefix = "{host}"', f'location = "{location}"', "insecure = true"]
        lines += ["[[registry.mirror]]", f'location = "127.0.0.1:{daemon.port}/{host}"', "insecure = true"]
    return "\n".join(lines)


@contextmanager
def podman(settings: str) -> Iterator[Containers]:
    """podman with a registries.conf of its own; its folder has a short path, as podman wants it."""
    with tempfile.TemporaryDirectory(prefix="rd-") as folder:
        containers = Containers(Path(folder), settings)
        containers.need_storage()
        yield containers


def test_podman_through_registries_conf(scene: Scene, repository: str) -> None:
    subjects = {HUB: two_platforms(f"{repository} hub"), OTHER: two_platforms(f"{repository} other")}
    push(scene.hub.connect(), repository, "1", subjects[HUB])
    push(scene.other.connect(), repository, "1", subjects[OTHER])
    for _ in ("cold", "off"):
        with podman(registries(scene.daemon, *((host, "127.0.0.1:1") for host in subjects))) as client:
            for host, subject in subjects.items():
                client.podman("pull", f"{host}/{repository}:1")
                pulled = client.inspect(f"{host}/{repository}:1")
                assert pulled["Id"] == subject.images[0].config.digest.partition(":")[2]
        scene.switch_off()


def test_podman_asks_the_origin(origin: Distribution, repository: str) -> None:
    push(origin.connect(), repository, "1", image([root_tar(repository)]))
    with mirror({OTHER: DEAD}) as daemon, podman(registries(daemon, (OTHER, origin.address))) as client:
        client.podman("pull", f"{OTHER}/{repository}:1")
        daemon.out.wait_for(re.escape(f"/v2/{OTHER}/{repository}/manifests/1"))


def test_skopeo_by_the_name_of_the_upstream(
    containers: Containers, scene: Scene, repository: str, tmp_path: Path
) -> None:
    """Also an official image of the Hub, without the part of its name that Docker adds."""
    official = repository.replace("/", "-")
    subjects = {f"{HUB}/{official}": two_platforms("official"), f"{OTHER}/{repository}": two_platforms("other")}
    push(scene.hub.connect(), f"library/{official}", "1", subjects[f"{HUB}/{official}"])
    push(scene.other.connect(), repository, "1", subjects[f"{OTHER}/{repository}"])
    for turn in ("cold", "off"):
        for number, (name, subject) in enumerate(subjects.items()):
            layout = tmp_path / f"{turn}{number}"
            source = f"docker://{scene.address}/{name}"
            containers.skopeo("copy", "--all", FROM, f"{source}:1", f"oci:{layout}:1")
            assert layout_digest(layout) == subject.digest
            listed = json.loads(containers.skopeo("list-tags", "--tls-verify=false", source).stdout)
            assert listed["Tags"] == ["1"]
        scene.switch_off()


def test_private_repositories_of_real_clients(
    containers: Containers, scene: Scene, repository: str, tmp_path: Path
) -> None:
    """What the upstream has under a private name does not stand in for it."""
    name, own = f"team/{repository}", image([root_tar("own", busybox=False)])
    theirs: Image = image([root_tar("theirs", busybox=False)])
    push(scene.hub.connect(), name, "1", theirs)
    source = f"docker://{scene.address}/{name}:1"
    containers.skopeo("inspect", "--tls-verify=false", source, expect=1)
    push(V2("127.0.0.1", scene.daemon.port), name, "1", own)
    containers.skopeo("copy", FROM, source, f"oci:{tmp_path}/own:1")
    assert layout_digest(tmp_path / "own") == own.digest
    assert_whole(V2("127.0.0.1", scene.daemon.port), f"{HUB}/{name}", "1", theirs)
