"""Rebuilds the report of every sweep under --workdir, and one page of all results.

    python -m experiments.report [--workdir=runs]

The page, `<workdir>/index.html`, also has the committed results, which are only read.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.report import files, publish, sources

_WORKDIR = flags.DEFINE_string("workdir", "runs", "Holds sweeps as EXPERIMENT/PRESET.")
COMMITTED = Path(__file__).parent.parent / "results"


def main(argv: Sequence[str]) -> int:
    """Prints the rebuilt tables and the page."""
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]} is not understood: only --workdir is")
    try:
        found, path = publish.write(Path(_WORKDIR.value), COMMITTED)
    except files.ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"report: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    for source in found:
        if source.origin == sources.RUN:
            print(source.directory / "table.md")
    print(path)
    return 0


if __name__ == "__main__":
    app.run(main)
