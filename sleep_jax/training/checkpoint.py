"""Checkpoints of a run: saved whole or not at all, checked when read, never trusted blindly."""

import hashlib
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from sleep_jax import processes
from sleep_jax.errors import UserError

log = logging.getLogger("sleep_jax")

# What a truncated, overwritten or half-deleted checkpoint makes orbax and tensorstore raise.
_DAMAGE = (ValueError, OSError, KeyError, TypeError)
# No file of a checkpoint exceeds 16 MiB, so that it can be carried where larger ones cannot. Arrays
# are cut into chunks of at most half of that, and a file is closed by the chunk that fills half.
_HALF_A_FILE = 7 << 20


class Checkpoints:
    """Saves and restores (state, progress) under `directory/<step>`.

    A thin door in front of orbax's `CheckpointManager`, whose default policies are kept, the
    preemption policy of the distributed service among them. Beside each checkpoint goes a digest of
    its files, because a flipped bit in an array is still a readable array. Every process saves and
    restores its shards; the first one writes and checks the digest, once all have saved.
    """

    def __init__(self, directory: Path, every: int, keep: int):
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=keep),
        )
        self._unsealed: int | None = None

    def due(self, step: int) -> bool:
        """Whether `save` would save at this step (interval reached, or the host is preempted)."""
        return step not in self._manager.all_steps() and self._manager.should_save(step)

    def preempted(self, step: int) -> bool:
        """Whether one of several processes was asked to stop; the same in all at the same step."""
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Starts saving `state` (a pytree of arrays) and `progress` (JSON) after `step` updates."""
        self._seal()
        if step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state, ocdbt_target_data_file_size=_HALF_A_FILE),
            progress=ocp.args.JsonSave(progress),
        )
        self._manager.save(step, args=arguments, force=True)
        self._unsealed = step

    def restore(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Newest undamaged checkpoint as (step, state, progress), or None where there is none.

        Damaged ones are named in a warning, set aside as `damaged-<step>`, and skipped. One whose
        files are as they were written is not damaged, even if it cannot be read.

        Args:
          abstract_state: `jax.ShapeDtypeStruct`s with shardings.

        Raises:
          UserError: there are checkpoints, and every one is damaged, now or as found before; or one
            is whole, and does not fit `abstract_state` or cannot be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            path = self._directory / str(step)
            reason = processes.agree(_damage(path) if processes.is_first() else "")
            if not reason:
                arguments = ocp.args.Composite(
                    state=_state(abstract_state), progress=ocp.args.JsonRestore()
                )
                restored = None
                try:
                    restored = self._manager.restore(step, args=arguments)
                except _DAMAGE as error:
                    reason = _words(error)
                reason = processes.agree(reason)
                if restored is not None and not reason:
                    return step, restored["state"], restored["progress"]
                if processes.agree("whole" * (processes.is_first() and _expected(path) != {})):
                    raise UserError(
                        f"--workdir: {path} is whole, but cannot be restored here ({reason}); "
                        "allowed: the code and the packages that wrote it, or another --workdir"
                    )
            log.warning("checkpoint %s is damaged (%s); going on from the one before", path, reason)
            if processes.is_first():
                _set_aside(path)
            processes.agree("")  # it is aside now
            self._manager.reload()
        if steps or any(self._directory.glob("damaged-*")):
            raise UserError(
                f"--workdir: every checkpoint in {self._directory} is damaged (kept there as "
                "damaged-<step>); allowed: delete that directory to start the run again"
            )
        return None

    def close(self) -> None:
        """Waits until what was being saved is saved."""
        self._seal()
        self._manager.close()

    def _seal(self) -> None:
        if self._unsealed is None:
            return
        self._manager.wait_until_finished()  # until all processes have saved
        path = self._directory / str(self._unsealed)
        self._unsealed = None
        if not processes.is_first():
            return
        _digest_path(path).write_text(json.dumps(_digest(path)))
        for old in self._directory.glob("*.sha256.json"):
            if not (self._directory / old.name.split(".")[0]).exists():
                old.unlink()


def newest(directory: Path, abstract_state: Any) -> tuple[int, Any]:
    """Newest undamaged checkpoint of a run as (step, state); nothing in the directory changes.

    For who reads what a run left, or is leaving, in one process. Damaged ones are named in a
    warning and skipped.

    Args:
      directory: of the checkpoints.
      abstract_state: `jax.ShapeDtypeStruct`s with shardings.

    Raises:
      UserError: there is none, or none that can be read; the message begins with its path.
    """
    allowed = "a run that has saved a checkpoint, and the packages that wrote it"
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist; allowed: {allowed}")
    reason = "there is none"
    # A manager of a directory that it may not change warns thrice of what it is.
    steps = (int(path.name) for path in directory.iterdir() if path.name.isdecimal())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        for step in sorted(steps, reverse=True):
            path = directory / str(step)
            try:
                reason = _damage(path)
                if not reason:
                    return step, reader.restore((path / "state").absolute(), _state(abstract_state))
            except _DAMAGE as error:
                reason = _words(error)
            log.warning("checkpoint %s cannot be read (%s)", path, reason)
    raise UserError(f"{directory} has no readable checkpoint ({reason}); allowed: {allowed}")


def _state(abstract_state: Any) -> ocp.args.PyTreeRestore:
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract_state)
    return ocp.args.PyTreeRestore(abstract_state, restore_args=arguments)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _damage(path: Path) -> str:
    """What is wrong with the files of a checkpoint; empty if nothing is."""
    expected = _expected(path)
    actual = _digest(path) if expected else {}
    changed = sorted(n for n in expected if actual.get(n) != expected[n])
    return f"{changed[0]} is missing or not what was written" if changed else ""


def _expected(path: Path) -> dict[str, str]:
    """The digest of a checkpoint; empty if it has none, so that orbax's word stands.

    It was killed between orbax's rename and the seal, or while it wrote that.
    """
    try:
        return json.loads(_digest_path(path).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _set_aside(path: Path) -> None:
    """Renames a checkpoint and its digest, which its successor at that step must not be held to."""
    aside = path.with_name(f"damaged-{path.name}")
    for again in itertools.count(2):
        if not aside.exists():
            break
        aside = path.with_name(f"damaged-{path.name}-{again}")
    path.rename(aside)
    if _digest_path(path).exists():
        _digest_path(path).rename(_digest_path(aside))


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _digest(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
