"""Which launcher has a run: processes of this host, and hosts that are only made up."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sleep_jax import claims
from sleep_jax.claims import Held, Overtaken, claimed

ROOT = Path(__file__).parent.parent
HOLD = """
import sys, time
from pathlib import Path
from sleep_jax.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def another_host(directory, silent_for, monkeypatch):
    """Leaves the claim of a host that is not this one, last renewed `silent_for` seconds ago."""
    with monkeypatch.context() as patch:
        patch.setattr(claims, "_host", lambda: "elsewhere 1234")
        with claimed(directory):
            pass
    (path,) = (directory / "claims").iterdir()
    at = time.time() - silent_for
    os.utime(path, (at, at))


def test_a_live_process_keeps_it_and_a_killed_one_loses_it_at_once(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        os.utime(tmp_path / "claims" / "1", (0, 0))  # the lock counts, not the lease
        with pytest.raises(Held, match=f"^process {holder.pid} on "), claimed(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with claimed(tmp_path):
            pass
    with claimed(tmp_path):
        assert sorted(os.listdir(tmp_path / "claims")) == ["1", "2", "3"]


def test_another_host_has_it_until_it_was_silent_for_the_lease(tmp_path, monkeypatch):
    another_host(tmp_path / "a", claims.LEASE_SECONDS - 60, monkeypatch)
    with pytest.raises(Held, match="on elsewhere$"), claimed(tmp_path / "a"):
        pass
    another_host(tmp_path / "b", claims.LEASE_SECONDS + 60, monkeypatch)
    with claimed(tmp_path / "b"):
        pass


def test_what_is_given_up_is_free_for_other_hosts_at_once(tmp_path, monkeypatch):
    with claimed(tmp_path):
        pass
    monkeypatch.setattr(claims, "_host", lambda: "elsewhere 1234")
    with claimed(tmp_path):
        pass


def test_where_files_have_no_locks_the_lease_decides(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claimed(tmp_path):
        with pytest.raises(Held), claimed(tmp_path):
            pass
    with claimed(tmp_path):
        pass


def test_of_many_that_see_it_free_one_gets_it(tmp_path, monkeypatch):
    another_host(tmp_path, claims.LEASE_SECONDS + 60, monkeypatch)
    start, end, won = threading.Barrier(16), threading.Event(), []

    def launcher():
        start.wait()
        try:
            with claimed(tmp_path) as claim:
                won.append(claim)
                end.wait()
        except Held:
            pass

    threads = [threading.Thread(target=launcher) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    end.set()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_claim_is_renewed_and_one_that_was_overtaken_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.02)
    with claimed(tmp_path) as claim:
        path = tmp_path / "claims" / "1"
        os.utime(path, (0, 0))
        time.sleep(0.3)
        assert path.stat().st_mtime > 0
        claim.check()
        (tmp_path / "claims" / "2").touch()
        time.sleep(0.3)
        with pytest.raises(Overtaken, match=str(tmp_path)):
            claim.check()


def test_a_file_server_that_is_away_for_a_moment_costs_no_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.01)
    asked = []

    def stale(path):
        asked.append(path)
        if len(asked) < 3:
            raise OSError(errno.ESTALE, "stale file handle")
        return True

    with claimed(tmp_path) as claim:
        monkeypatch.setattr(Path, "exists", stale)
        with pytest.raises(Overtaken):
            for _ in range(500):
                time.sleep(0.01)
                claim.check()
