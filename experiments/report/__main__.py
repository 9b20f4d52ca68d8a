"""Rebuilds the report of every sweep under --workdir, and one page of all results.

    python -m experiments.report [--workdir=runs]

The page, `<workdir>/index.html`, also has the committed results, which are only read.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.report import files, publish, sources

_WORKDIR = flags.DEFINE_string("workdir", "runs", "Holds sweeps as EXPERIMENT/PRESET.")
COMMITTED = Path(__file__).parent.parent / "results"


def main() -> int:
    """Prints the rebuilt tables and the page."""
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
    sys.exit(cli.run(main, sys.argv))
