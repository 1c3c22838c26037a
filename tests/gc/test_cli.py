"""The command as operators and scripts meet it: output, exit codes, locks, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registryd.reference import Digest, Tag
from registryd.storage import layout
from registryd.storage.filesystem import FilesystemDriver

from .trees import APP, DAY, HUB, Store

COLLECTOR = [sys.executable, "-m", "registryd_gc"]
DAEMON = [sys.executable, "-m", "registryd", "garbage-collect"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = tmp_path / "store"
    root.mkdir()
    (tmp_path / "config.yml").write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\n")
    return Store(FilesystemDriver(str(root)), now=root.stat().st_mtime)


def run(
    tmp_path: Path, *arguments: str, code: int = 0, program: list[str] = COLLECTOR, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the collector in the folder with its configuration."""
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(
        [*program, *arguments], cwd=tmp_path, env={**os.environ, **paths, **environment}, capture_output=True, text=True
    )
    assert done.returncode == code, done
    return done


def test_each_thing_and_a_summary(store: Store, tmp_path: Path) -> None:
    store.image("kept", tags=["1"])
    loose = store.layer(b"loose")
    done = run(tmp_path, "config.yml")
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{APP}: layer link {loose}", f"blob {loose} 5 bytes"]
    assert "blobs         3 kept (" in done.stdout and "1 removed (5 B)" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("unit", ["registryd-gc", "registryd-verify"])
def test_what_the_units_run(store: Store, tmp_path: Path, unit: str) -> None:
    store.image("kept", tags=["1"])
    lines = (Path(__file__).parents[2] / "conf" / f"{unit}.service").read_text().splitlines()
    (command,) = (line.partition("=")[2].split() for line in lines if line.startswith("ExecStart="))
    assert (Path(command[0]).name, command[-1]) == ("registryd-gc", "/etc/registryd/config.yml")
    told = json.loads(run(tmp_path, *command[1:-1], "config.yml").stdout)
    assert (told["damage"], told["blobs"].get("read", 3)) == ([], 3)


@pytest.mark.parametrize("program", [COLLECTOR, DAEMON], ids=["registryd-gc", "registryd"])
def test_flags_as_in_distribution(store: Store, tmp_path: Path, program: list[str]) -> None:
    untagged = store.image("untagged")
    assert str(untagged.digest) in run(tmp_path, "-d", "-m", "config.yml", program=program).stdout
    assert store.is_whole("untagged", untagged)
    assert run(tmp_path, "config.yml", "--delete-untagged=x", code=1, program=program).stdout == ""
    assert str(untagged.digest) not in run(tmp_path, "config.yml", program=program).stdout
    for arguments in (["-m=0"], ["--delete-untagged", "--delete-untagged=false"], ["-m", "--delete-untagged=false"]):
        assert str(untagged.digest) not in run(tmp_path, "config.yml", *arguments, program=program).stdout
    told = run(tmp_path, "--dry-run=true", "--delete-untagged=true", "-q=F", "config.yml", program=program).stdout
    assert str(untagged.digest) in told and store.is_whole("untagged", untagged)
    assert run(tmp_path, "config.yml", "-mq", program=program).stdout == ""
    assert not store.has_manifest(untagged)


def test_the_configuration_says_whether_untagged_go(store: Store, tmp_path: Path) -> None:
    untagged = store.image("untagged")
    with open(tmp_path / "config.yml", "a") as config:
        config.write("gc: {untagged: delete}\n")
    run(tmp_path, REGISTRY_CONFIGURATION_PATH="config.yml")
    assert not store.has_manifest(untagged)


def test_one_json_document(store: Store, tmp_path: Path) -> None:
    store.image("kept", tags=["1"])
    store.layer(b"loose")
    document = json.loads(run(tmp_path, "--json", "config.yml").stdout)
    blobs = {"kept": 3, "removed": 1, "removed_bytes": 5, "young": 0, "young_bytes": 0}
    assert document["blobs"] == {**blobs, "kept_bytes": document["blobs"]["kept_bytes"]}
    assert document["dry_run"] is False and document["damage"] == [] and document["seconds"] > 0
    told = {"run", "dry_run", "cutoff", "seconds", "repositories", "manifests", "tags", "blobs", "links", "history"}
    assert document.keys() == told | {"referrers", "uploads", "temporary", "trash", "mirror", "damage"}


def test_damage_is_told_and_is_exit_code_3(store: Store, tmp_path: Path) -> None:
    store.image("app", tags=["1"])
    path = store.put(layout.layer_link(APP, Digest.of(b"layer of app")), b"")
    done = run(tmp_path, "-q", "config.yml", code=3)
    assert done.stdout == "" and done.stderr == f"registryd-gc: link: {path}: empty\n"
    (damage,) = json.loads(run(tmp_path, "--json", "config.yml", code=3).stdout)["damage"]
    assert damage == {"kind": "link", "path": path, "detail": "empty", "repaired": False}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.yml"], "none.yml: cannot be read"),
        (["--grace", "0", "config.yml"], "a grace of 0 needs --offline"),
        (["--grace", "1h", "--offline", "config.yml"], "--offline means a grace of 0"),
        (["--grace", "1x", "config.yml"], "is not a duration"),
        (["--evict", "config.yml"], "--evict needs --expired-only"),
        (["restore", "nothing", "config.yml"], "no such run in the trash: nothing"),
        (["memory.yml"], "no other process can see that store"),
        (["s3.yml"], "this storage driver is not supported"),
        (["gone.yml"], "no such folder"),
    ],
)
def test_failures_are_one_line(store: Store, tmp_path: Path, arguments: list[str], told: str) -> None:
    store.image("app")
    (tmp_path / "memory.yml").write_text("version: 0.1\nstorage: inmemory\n")
    (tmp_path / "s3.yml").write_text("version: 0.1\nstorage: {s3: {region: r, bucket: b}}\n")
    (tmp_path / "gone.yml").write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/gone}}}}\n")
    done = run(tmp_path, *arguments, code=1)
    assert told in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "gone").exists()


def test_offline_is_refused_while_a_daemon_runs(store: Store, tmp_path: Path) -> None:
    store.layer(b"new", age=0)
    store.driver.lock(False)
    assert "a daemon or another collector uses this store" in run(tmp_path, "--offline", "config.yml", code=1).stderr
    assert "0 removed" in run(tmp_path, "config.yml").stdout
    store.driver.close()
    summary = run(tmp_path, "config.yml").stdout
    assert "1 of the kept (3 B) are not needed, but too young to go" in summary
    assert "1 removed (3 B)" in run(tmp_path, "--offline", "config.yml").stdout


def test_one_at_a_time(store: Store, tmp_path: Path) -> None:
    store.image("app")
    lock = store.driver.writer(f"{layout.TRASH}.lock", True)
    for arguments in ([], ["-d"]):
        assert "another collector is running" in run(tmp_path, *arguments, "config.yml", code=1).stderr
    lock.close()
    run(tmp_path, "config.yml")


def test_a_short_grace_is_remarked_on(store: Store, tmp_path: Path) -> None:
    store.image("app", tags=["1"])
    assert "shorter than gc.grace" in run(tmp_path, "--grace", "1s", "config.yml").stderr


def odd(store: Store) -> None:
    """Have an upload whose name no terminal should be given as it is, and that is no UTF-8."""
    session = os.fsencode(store.driver.root + layout.uploads(APP)) + b"/u\x1b[2J\xff\nx"  # type: ignore[attr-defined]
    os.makedirs(session)
    with open(session + b"/data", "wb"):
        pass
    for path in (session + b"/data", session):
        os.utime(path, (1, 1))


def test_odd_names_are_escaped(store: Store, tmp_path: Path) -> None:
    odd(store)
    lines = run(tmp_path, "config.yml", PYTHONIOENCODING="utf-8:strict").stdout.splitlines()
    assert lines[0] == f"upload {APP}/_uploads/u\\x1b[2J\\udcff\\nx"
    store.put(layout.tag_link(APP, Tag("a\nb\x1b")), b"")
    told = run(tmp_path, "-q", "config.yml", code=3).stderr
    assert len(told.splitlines()) == 1 and "a\\nb\\x1b" in told


def test_a_letter_that_the_terminal_has_not(store: Store, tmp_path: Path) -> None:
    store.upload("\N{SNOWMAN}")
    assert "_uploads/\\u2603" in run(tmp_path, "config.yml", PYTHONIOENCODING="ascii:strict").stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(store: Store, tmp_path: Path, closed: str) -> None:
    store.image("app", tags=["1"])
    store.layer(b"loose")
    command = f"{' '.join(COLLECTOR)} config.yml {closed}"
    done = run(tmp_path, "-c", command, program=["sh"])
    assert done.stderr == "" and not store.has_blob(b"loose")


def test_an_interruption_while_it_starts_is_one_line(store: Store, tmp_path: Path) -> None:
    """The first thing that is imported is interrupted."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [*COLLECTOR, "config.yml"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, cwd="/"
    )
    told = "registryd-gc: interrupted: the store is whole, and the next run goes on\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.parametrize("offline", [(), ("--offline",)], ids=["beside", "offline"])
def test_a_dry_run_creates_nothing(store: Store, tmp_path: Path, offline: tuple[str, ...]) -> None:
    store.image("app")
    store.layer(b"loose")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert "1 would go (5 B)" in run(tmp_path, "--dry-run", *offline, "config.yml").stdout
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_store_that_can_only_be_read(store: Store, tmp_path: Path) -> None:
    store.image("app")
    store.upload("old", age=8 * DAY)
    store.collect()
    store.layer(b"loose")
    root = tmp_path / "store"
    bound = subprocess.run(["mount", "--bind", str(root), str(root)], capture_output=True)
    if bound.returncode:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        for arguments in (["-d"], ["-d", "--offline"]):
            done = run(tmp_path, *arguments, "config.yml")
            assert "1 would go (5 B)" in done.stdout and "cannot be written" in done.stderr
        assert "Read-only file system" in run(tmp_path, "config.yml", code=1).stderr
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_restore(store: Store, tmp_path: Path) -> None:
    untagged = store.image("untagged")
    with open(tmp_path / "config.yml", "a") as config:
        config.write("gc: {trash: 72h}\n")
    name = json.loads(run(tmp_path, "-m", "--json", "config.yml").stdout)["run"]
    assert not store.has_manifest(untagged)
    assert "6 files put back" in run(tmp_path, "restore", name, "config.yml").stdout
    assert store.is_whole("untagged", untagged)
    assert "0 removed" in run(tmp_path, "-m", "config.yml").stdout


def test_reasons_are_told_in_a_dry_run(store: Store, tmp_path: Path) -> None:
    store.image("app", tags=["1"])
    with open(tmp_path / "config.yml", "a") as config:
        config.write('gc: {retention: [{repositories: "team/**", keepnewest: 0}]}\n')
    assert f"{APP}:1: goes: not among the newest 0" in run(tmp_path, "-d", "config.yml").stdout


def test_expired_only(store: Store, tmp_path: Path) -> None:
    store.mirror()
    store.layer(b"cached", HUB)
    store.layer(b"loose")
    with open(tmp_path / "config.yml", "a") as config:
        config.write("proxy: {upstreams: {docker.io: {remoteurl: https://registry-1.docker.io}}}\n")
    run(tmp_path, "--expired-only", "config.yml")
    assert (store.has_blob(b"cached"), store.has_blob(b"loose")) == (False, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_correct_store(store: Store, tmp_path: Path, number: int) -> None:
    kept = store.image("kept", tags=["1"])
    for count in range(3000):
        store.blob(b"%d" % count)
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    process = subprocess.Popen(
        [*COLLECTOR, "config.yml"],
        cwd=tmp_path,
        env={**os.environ, **paths, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("blob ")
    process.send_signal(number)
    _, errors = process.communicate()
    told = "registryd-gc: interrupted: the store is whole, and the next run goes on"
    assert (process.returncode, errors.strip()) == (1, told)
    assert store.is_whole("kept", kept)
    left = json.loads(run(tmp_path, "--json", "config.yml").stdout)
    assert left["blobs"]["kept"] == 3 and left["blobs"]["removed"] > 0


def test_a_terminal_sees_progress(store: Store, tmp_path: Path) -> None:
    store.image("app", tags=["1"])
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = " ".join([*COLLECTOR, "config.yml"])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=tmp_path,
        env={**os.environ, **paths, "TERM": "xterm"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "100%" in done.stdout and "manifests     1 kept" in done.stdout
