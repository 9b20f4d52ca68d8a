"""What all launchers share: their command line, and how they run what they print."""

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence

from absl import flags

from experiments import cli
from experiments.__main__ import SWEPT
from sleep_jax.errors import UserError

Command = list[str]
# Names go to other programs as arguments of their own, where `-x` would be an option.
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_OURS = re.compile(r"--?(coordinator|num_processes|process_id)(=.*)?")


def define_dry_run(values: flags.FlagValues) -> flags.FlagHolder[bool]:
    """The flag `--dry_run` of a launcher."""
    return flags.DEFINE_boolean(
        "dry_run", False, "Print the commands and stop.", flag_values=values
    )


def main(
    argv: Sequence[str],
    values: flags.FlagValues,
    build: Callable[[Command], list[Command]],
    start: Callable[[list[Command]], int],
) -> int:
    """Prints what `build` makes of the experiment after `--`, and starts it; returns an exit code.

    Args:
      build: from the experiment's arguments (its name first) to the commands.
      start: `at_once` or `in_turn`.
    """
    own, experiment = list(argv), []
    if "--" in own:
        at = own.index("--")
        own, experiment = own[:at], own[at + 1 :]

    def launch() -> int:
        _check(experiment)
        commands = build(experiment)
        for command in commands:
            print(shlex.join(command), flush=True)
        return 0 if values["dry_run"].value else start(commands)

    return cli.run(launch, own, values)


def _check(experiment: Command) -> None:
    allowed = ", ".join(SWEPT)
    if not experiment:
        raise UserError(f"no experiment given; allowed: -- NAME [--flag=value], NAME of {allowed}")
    if experiment[0] not in SWEPT:
        raise UserError(f"experiment {experiment[0]} after -- is unknown; allowed: {allowed}")
    for argument in experiment:
        if _OURS.fullmatch(argument):
            raise UserError(f"{argument} after -- is set by the launcher; allowed: other flags")


def check_name(flag: str, name: str) -> None:
    """Raises UserError unless it is a name such as Google Cloud, Kubernetes and SLURM allow."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--{flag}={name} is not possible; allowed: small letters, digits and -, a letter first"
        )


def on_cluster(experiment: Command, directory: str, python: str) -> str:
    """A line of shell that runs the experiment in a checkout, among the processes of a cluster."""
    run = [python, "-m", "experiments", *experiment, "--coordinator=auto"]
    # `exec`, so that a signal reaches Python and not a shell around it.
    return f"cd {shlex.quote(directory)} && exec {shlex.join(run)}"


def in_turn(commands: list[Command]) -> int:
    """Runs each to its end; stops at the first that fails and returns its exit code."""
    for command in commands:
        if code := at_once([command]):
            return code
    return 0


def at_once(commands: list[Command]) -> int:
    """Runs all together and waits; returns the exit code of the first that fails, or 0.

    SIGTERM and SIGINT to this process go on as SIGTERM to all of them.
    """
    stop, told = cli.StopSignal(), False
    running: list[subprocess.Popen[bytes]] = []
    code = 0
    try:
        for command in commands:
            running.append(subprocess.Popen(command))
    except FileNotFoundError:
        raise UserError(f"{commands[0][0]} is not installed here; allowed: --dry_run") from None
    while running:
        for process in running:
            if process.poll() and not code:  # killed by a signal: what a shell would say
                code = process.returncode if process.returncode > 0 else 128 - process.returncode
        running = [process for process in running if process.returncode is None]
        if stop() and not told:
            told = True
            for process in running:
                process.terminate()
        time.sleep(0.1)
    return code
