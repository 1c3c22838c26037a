"""A run in several processes: they count as one would, fail as one, and end with whoever began them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from registryd.config import load
from registryd.reference import Digest, RepositoryName
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver
from registryd_gc.trash import LOCK

from .trees import APP, HUB, NEW, Store

COLLECTOR = [sys.executable, "-m", "registryd_gc", "config.yml"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = tmp_path / "store"
    root.mkdir()
    (tmp_path / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\n"
        "proxy: {upstreams: {docker.io: {remoteurl: https://registry-1.docker.io}}}\n"
    )
    return Store(FilesystemDriver(str(root)), now=root.stat().st_mtime)


def fill(store: Store) -> None:
    """Of everything that is counted, something in several repositories."""
    for number in range(12):
        name = RepositoryName(f"team/app{number}")
        image = store.image(f"image {number}", name, tags=["1"], layers=[b"shared"])
        store.signature(image, f"signature {number}", name)
        store.image(f"untagged {number}", name)
        store.layer(b"loose %d" % number, name)
        store.layer(b"young %d" % number, name, NEW)
        store.put(layout.layer_link(name, store.blob(b"garbled %d" % number)) + ".tmp", b"")
    store.link(layout.revision_link(APP, image.digest), store.blob(b"gone"))
    store.driver.delete(layout.blob_data(store.blob(b"layer of image 3")))
    store.mirror()
    store.image("cached", HUB, tags=["1"])
    store.layer(b"cached and loose", HUB)


def test_many_processes_count_as_one(store: Store, tmp_path: Path) -> None:
    fill(store)
    shutil.copytree(tmp_path / "store", tmp_path / "other", symlinks=True)
    run = subprocess.run([*COLLECTOR, "-m", "--json"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    told = json.loads(run.stdout)
    config = load(str(tmp_path / "config.yml"), {})
    other = Store(FilesystemDriver(str(tmp_path / "other")), config, now=store.now)
    counted = other.collect(untagged_go=True, workers=1).document()
    for document in (told, counted):
        for differs in ("run", "cutoff", "seconds"):
            del document[differs]
    assert told == counted and told["blobs"]["removed"] > 12 and told["damage"]
    left = [{path: state for path, state in one.files().items() if path != LOCK} for one in (store, other)]
    assert left[0] == left[1]


def test_each_thing_is_told(store: Store, tmp_path: Path) -> None:
    loose = {str(store.layer(b"%d" % number, RepositoryName(f"app{number % 3}"))) for number in range(500)}
    run = subprocess.run(COLLECTOR, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert {line.split()[1] for line in lines if line.startswith("blob ")} == loose
    assert {line.split()[-1] for line in lines if "layer link" in line and line.startswith("app")} == loose


def all_loose(tmp_path: Path) -> Iterator[Path]:
    for number in range(3000):
        yield Path(f"{tmp_path}/store{layout.blob_data(Digest.of(b'%d' % number))}")


@pytest.fixture
def begun(store: Store, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has much to do, and has begun."""
    store.image("kept", tags=["1"])
    for path in all_loose(tmp_path):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (0, 0))
    process = subprocess.Popen(
        COLLECTOR, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(children(process.pid)) > 1)
    yield process
    process.kill()
    process.communicate()


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def check_next(store: Store, tmp_path: Path) -> None:
    """Whatever became of a run, the next leaves what is needed, and nothing else."""
    subprocess.run([*COLLECTOR, "-q"], cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert store.is_whole("kept", attrs.evolve(store.image("kept")))
    assert len([path for path in store.files() if path.endswith("/data")]) == 3


def test_a_process_that_is_killed_fails_the_run(store: Store, tmp_path: Path, begun: subprocess.Popen[str]) -> None:
    os.kill(children(begun.pid)[0], signal.SIGKILL)
    _, errors = begun.communicate()
    told = "registryd-gc: a process of this run was killed: the store is whole, and the next run goes on\n"
    assert (begun.returncode, errors) == (1, told)
    check_next(store, tmp_path)


def test_processes_end_with_who_began_them(store: Store, tmp_path: Path, begun: subprocess.Popen[str]) -> None:
    workers = children(begun.pid)
    begun.kill()
    begun.wait()
    wait_until(lambda: not any(map(is_running, workers)))
    subprocess.run([*COLLECTOR, "-q", "--offline"], cwd=tmp_path, env=ENVIRONMENT, check=True)
    check_next(store, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_means_all_processes_ends_the_run_in_order(
    store: Store, tmp_path: Path, begun: subprocess.Popen[str], number: int
) -> None:
    """A terminal's Ctrl-C and systemd's stop go to all of them."""
    workers = children(begun.pid)
    for pid in (*workers, begun.pid):
        os.kill(pid, number)
    told, errors = begun.communicate()
    assert errors.lstrip() == "registryd-gc: interrupted: the store is whole, and the next run goes on\n"
    assert not any(map(is_running, workers)) and not any("_trash/2" in path for path in store.files())
    named = [line.split()[1] for line in told.splitlines() if line.startswith("blob ")]
    gone = {f"sha256:{path.parent.name}" for path in all_loose(tmp_path) if not path.exists()}
    assert len(named) == len(gone) and set(named) == gone
    check_next(store, tmp_path)


def test_a_reader_who_leaves_is_no_process_that_was_killed(begun: subprocess.Popen[str]) -> None:
    assert begun.stdout is not None and begun.stderr is not None
    assert begun.stdout.readline().startswith("blob ")
    begun.stdout.close()
    begun.wait()
    assert begun.returncode == 1 and "killed" not in begun.stderr.read()
    begun.stdout = None


def test_who_is_slow_to_end_is_not_waited_for() -> None:
    """All but the first item take longer than anybody waits: those who work on them have to be killed."""
    told = crew("""
        workers = Workers(4)
        began = time.monotonic()
        try:
            with workers.each(lambda item, listener: time.sleep(60 * item), range(8), Silence()) as results:
                next(results)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print(time.monotonic() - began < 10, multiprocessing.active_children())
    """)
    assert told == "True []\n"


def crew(script: str) -> str:
    """What a script prints that lets several processes work."""
    script = "from registryd_gc.workers import *\nfrom registryd_gc.report import Silence\n" + textwrap.dedent(script)
    run = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    return run.stdout


def test_results_come_in_order() -> None:
    told = crew("""
        import time
        def work(item, listener):
            time.sleep(0.2 if item == 0 else 0)
            return item, os.getpid()
        with Workers(3).each(work, range(200), Silence()) as results:
            found = list(results)
        print([item for item, _ in found] == list(range(200)), len({pid for _, pid in found}))
        print(multiprocessing.active_children())
    """)
    assert told == "True 3\n[]\n"


def test_few_items_need_few_processes() -> None:
    told = crew("""
        with Workers(8).each(lambda item, listener: os.getpid(), range(2), Silence()) as results:
            print(len({*results, os.getpid()}))
        with Workers(8).each(lambda item, listener: os.getpid(), [], Silence()) as results:
            print(list(results), multiprocessing.active_children())
    """)
    assert told == "3\n[] []\n"


def test_a_failure_stops_all() -> None:
    told = crew("""
        import time
        workers = Workers(4)
        done = mmap(-1, 1)
        def work(item, listener):
            if item == 3:
                time.sleep(0.1)
                raise OSError(28, "No space left on device")
            for _ in range(10_000):
                if workers.stopped():
                    done[0] += 1
                    raise Stopped
                time.sleep(0.001)
            return item
        try:
            with workers.each(work, range(100), Silence()) as results:
                list(results)
        except OSError as error:
            print(error, done[0], multiprocessing.active_children())
    """)
    assert told == "[Errno 28] No space left on device 3 []\n"


def test_who_takes_the_results_may_fail() -> None:
    told = crew("""
        workers = Workers(4)
        try:
            with workers.each(lambda item, listener: item, range(10_000), Silence()) as results:
                for result in results:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            print(workers.stopped(), multiprocessing.active_children())
    """)
    assert told == "True []\n"
