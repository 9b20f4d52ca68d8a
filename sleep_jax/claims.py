"""Which launcher has a run: several may work on the cells of one sweep, on hosts that share files.

`claims/` in a run directory holds one file a claim, numbered; the highest counts. A file of one
name is created once only (O_EXCL), so of two launchers that see a claim given up, one gets the next
number. Its holder is at work

- while the file is locked (flock): the system lets go of it however the process ends. That settles
  it on one host, and on file systems whose locks hosts share (NFS, Lustre mounted with `flock`);
- or, for another host and where files have no locks, while the file was renewed in the last
  `LEASE_SECONDS`, so the clocks of hosts must agree to a fraction of that.

So the cell of a killed process is free at once on its host, and that of a killed host after
`LEASE_SECONDS`, or when the file server gives up the lock of a client that is gone, if that is
later; where it never does (NFSv3, until the host is back), delete `claims/` of the cell. A holder
that slept through its lease finds a higher number and stops.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LEASE_SECONDS = 300
RENEW_SECONDS = 30


class Held(Exception):
    """Another launcher has the run; the message says which."""


class Overtaken(Exception):
    """This process was silent for longer than the lease, and another launcher has the run now."""


class Claim:
    """A run that this process has, and keeps by renewing the claim in a thread of its own."""

    def __init__(self, path: Path):
        self._path = path
        self._next = path.with_name(str(int(path.name) + 1))
        self._overtaken = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises Overtaken if the run is no longer this process's."""
        if self._overtaken:
            raise Overtaken(f"another launcher has taken over {self._path.parent.parent}")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(OSError):  # a file server that is away for a moment
                self._overtaken = self._overtaken or self._next.exists()
                os.utime(self._path)

    def end(self) -> None:
        """Gives the run up, for other hosts at once too."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            os.utime(self._path, (0, 0))


@contextmanager
def claimed(directory: Path) -> Iterator[Claim]:
    """Holds a run directory for this process.

    Raises:
      Held: another one has it.
    """
    claims = directory / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    newest = max((int(name) for name in os.listdir(claims) if name.isdigit()), default=0)
    if newest and (holder := _holder(claims / str(newest))):
        raise Held(holder)
    path = claims / str(newest + 1)
    try:
        file = open(path, "x")
    except FileExistsError:
        raise Held("a launcher that has just begun") from None
    with file:
        with suppress(OSError):  # no locks here: the lease will do
            fcntl.flock(file, fcntl.LOCK_EX)
        # Only now: a file with a host in it that is not locked is one whose process has ended.
        file.write(f"{_host()}\n{os.getpid()}\n")
        file.flush()
        claim = Claim(path)
        try:
            yield claim
        finally:
            claim.end()


def _holder(path: Path) -> str:
    """Who holds the claim of this file; empty if nobody does."""
    with open(path, "r+") as file:
        host, process = (file.read().splitlines() + ["", ""])[:2]
        name = f"process {process} on {host.partition(' ')[0]}" if host else "a launcher"
        free = _unlocked(file)
        if free is False:
            return name
        if free and host == _host():
            return ""
        return name if time.time() - os.fstat(file.fileno()).st_mtime < LEASE_SECONDS else ""


def _unlocked(file: IO[str]) -> bool | None:
    """Whether nobody has the file locked; None where files have no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _host() -> str:
    """Name of the host and of its boot: containers of one machine have names of their own."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}".strip()
