"""What the figures depend on: the machine, the programs' versions, and the CPU time that a process has used."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import timeit
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

_MIB = 1 << 20
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """The CPU time, user and system, of a process and its descendants in seconds, in steps of a clock tick.

    Source: proc(5), /proc/PID/stat: utime, stime, and those of children that were waited for.
    """
    return sum(sum(_ticks(process)) for process in _tree(pid)) / _TICKS_A_SECOND


def _ticks(pid: int) -> Sequence[int]:
    # The command's name, in parentheses, may hold spaces and parentheses itself.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _tree(int(child))


def busy_seconds(cpus: set[int]) -> float:
    """The time that CPUs have spent on anything, in seconds, that which a hypervisor took from them included.

    Source: proc(5), /proc/stat: all but idle and iowait; what guests use is part of user and nice.
    """
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _idle, _waiting, *rest = map(int, fields[:8])
            busy += user + nice + system + sum(rest)
    return busy / _TICKS_A_SECOND


def split_cpus() -> tuple[set[int], set[int]]:
    """The CPU for the server and the CPUs for the load; the same one where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


def claim_memory(folder: Path, size: int) -> None:
    """Have the machine hold so many bytes of memory for what is written into files next; the folder has room for them.

    A hypervisor that takes free memory back gives it again page by page: to write a GiB into the page cache then costs
    one to two CPU seconds more, or none, as the seconds before went, which is more than a server's own work.
    """
    claimed, piece = folder / "claimed", bytes(_MIB)
    with open(claimed, "wb", buffering=0) as file:
        for _ in range(size // _MIB):
            file.write(piece)
    claimed.unlink()


def describe(folder: Path) -> list[str]:
    """Lines that say where figures come from: date, machine, kernel, versions; the store lies in a folder."""
    return [
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC; {_cpu_model()}, {os.cpu_count()} CPUs;"
        f" Linux {platform.release()}; TCP by {_congestion_control()}; stores on {_file_system(folder)}",
        f"registryd: this checkout, {_packages('twisted', 'klein', 'pyOpenSSL')},"
        f" {_first_line([sys.executable, '-c', _OPENSSL_OF_REGISTRYD])}, Python {platform.python_version()} that"
        f" {_interpreter_speed()}",
        f"peers: {_first_line(['docker-registry', '--version'])}; {_first_line(['nginx', '-v'])},"
        f" {_openssl_of_nginx()}; load: {_first_line(['wrk', '-v'])}, Python",
    ]


_OPENSSL_OF_REGISTRYD = "from OpenSSL import SSL; print(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode())"


def _interpreter_speed() -> str:
    """What tells interpreters of one version apart: how fast one is depends on how it was built.

    One without profile-guided optimization takes half as long again.
    """

    def work() -> None:
        names: dict[str, int] = {}
        for number in range(1000):
            names["name-%d" % (number % 50)] = number  # noqa: UP031

    microseconds = min(timeit.repeat(work, number=100, repeat=10)) * 1e6 / 100
    return f"formats and stores 1,000 strings in {microseconds:.0f} µs"


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _congestion_control() -> str:
    # One that paces what it sends sets a timer for each piece, also where the peer is on the same machine.
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def _file_system(folder: Path) -> str:
    # Whether freed blocks are discarded at once, or the blocks are a file's, moves whatever waits for the disk.
    source, kind, options = _output(["findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", "--target", str(folder)]).split()
    return f"{kind} ({options}) of {source}"


def _packages(*names: str) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _openssl_of_nginx() -> str:
    # Where both stand in a line, the one that it runs with is the last.
    found = re.findall(r"(?:running|built) with (OpenSSL \S+)", _output(["nginx", "-V"]))
    return found[-1] if found else "no TLS"


def _first_line(command: Sequence[str]) -> str:
    return (_output(command).splitlines() or ["?"])[0].removeprefix("nginx version: ").partition(" Copyright")[0]


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    return done.stdout
