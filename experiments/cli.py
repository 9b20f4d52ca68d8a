"""How every experiment binary meets its user: flags, errors, exit codes, log lines.

Exit codes: 0 done, 1 a run failed, 2 bad input (one line on stderr says what and what is allowed),
141 the reader of our output left (`| head`), 143 stopped by SIGTERM with everything saved.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

from absl import flags

from sleep_jax.errors import UserError

STOPPED = 128 + signal.SIGTERM
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_UNREAD = 128 + 13  # SIGPIPE, which not every system has


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def set_up_logging(prefix: str = "") -> None:
    """Progress of the suite goes to stdout at once; other libraries only warn, on stderr."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logger = logging.getLogger("sleep_jax")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def run(
    main: Callable[[], int], argv: Sequence[str], values: flags.FlagValues = flags.FLAGS
) -> int:
    """Parses flags and runs `main`; turns bad input into one line and exit code 2."""
    set_up_logging()
    try:
        rest = values(list(argv))[1:]
        if rest:
            raise UserError(f"argument {rest[0]!r} is not understood; allowed: --flag=value")
        code = main()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python flushes once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD
    except (UserError, flags.Error) as error:
        text = " ".join(str(error).split())
        if isinstance(error, flags.UnrecognizedFlagError):
            text += f"; allowed: {', '.join(f'--{flag.name}' for flag in own_flags(values))}"
        if isinstance(error, flags.IllegalFlagValueError):
            text += _allowed(text, values)
        print(f"error: {text}", file=sys.stderr)
        return 2


def _allowed(text: str, values: flags.FlagValues) -> str:
    """What absl's `flag --name=value: ...` leaves out where a flag wants a number."""
    name = text.removeprefix("flag --").partition("=")[0]
    wanted = values[name].parser.syntactic_help if name in values else ""
    return f"; allowed: {wanted}" if wanted else ""


def own_flags(values: flags.FlagValues = flags.FLAGS) -> list[flags.Flag]:
    """The suite's flags, without those that absl, grain and orbax define for every program."""
    modules = values.flags_by_module_dict()
    ours = ("experiments.", sys.argv[0])  # absl's name for the module that is run by `-m`
    return [flag for name in modules if name.startswith(ours) for flag in modules[name]]


def parse_numbers(name: str, values: Sequence[str], low: int, meaning: str) -> tuple[int, ...]:
    """Comma-separated whole numbers of flag `name`, each at least `low`, none twice.

    Raises:
      UserError: naming the flag, the value and what is allowed.
    """
    numbers = []
    for value in values:
        if not value.isdecimal() or int(value) < low:
            raise UserError(f"--{name}={value} is not possible; allowed: {meaning} >= {low}")
        numbers.append(int(value))
    _require_each_once(name, values, numbers)
    return tuple(numbers)


def parse_names(name: str, values: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Comma-separated names of flag `name`, at least one, each of `known`, none twice.

    Raises:
      UserError: naming the flag, the value and what is allowed.
    """
    for value in values:
        if value not in known:
            raise UserError(f"--{name}={value} is unknown; allowed: {', '.join(known)}")
    if not values:
        raise UserError(f"--{name}= is empty; allowed: at least one of {', '.join(known)}")
    _require_each_once(name, values, values)
    return tuple(values)


def _require_each_once(name: str, given: Sequence[str], values: Sequence[object]) -> None:
    if len(set(values)) < len(values):
        raise UserError(f"--{name}={','.join(given)} names a value twice; allowed: each once")


class StopSignal:
    """True once this process was asked to stop, or was orphaned by its parent."""

    def __init__(self, parent: int | None = None):
        self._asked = False
        self._parent = parent
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # what a launcher held back

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked or (self._parent is not None and os.getppid() != self._parent)


class Stopped(Exception):
    """This process was asked to stop, while nothing was under way that has to be saved."""


@contextlib.contextmanager
def stopped_at_once() -> Iterator[None]:
    """Being asked to stop raises Stopped in here."""

    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
