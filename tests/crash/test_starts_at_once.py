"""Several daemons that start on one store in the same moment all serve it, and leave nothing beside it."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.clients.v2 import V2
from tests.daemon import Daemon, DaemonFailedError

DAEMONS = 4


def test_four_at_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    daemons = [Daemon(root=store) for _ in range(DAEMONS)]
    failures: list[DaemonFailedError] = []

    def start(daemon: Daemon) -> None:
        try:
            daemon.start()
        except DaemonFailedError as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(daemon,)) for daemon in daemons]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        digest = V2("127.0.0.1", daemons[0].port).push_blob("team/app", b"content")
        for daemon in daemons:
            assert V2("127.0.0.1", daemon.port).blob("team/app", digest).expect(200).body == b"content"
        assert not [path.name for path in daemons[0].tree.iterdir() if path.name not in ("blobs", "repositories")]
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.close()
