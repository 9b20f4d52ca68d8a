"""The page of all results, from run directories and committed results to a file."""

from pathlib import Path

from experiments.report import files, page, sources


def write(workdir: Path, committed: Path) -> tuple[list[sources.Source], Path]:
    """Reads everything, then writes the page; returns what it shows and where it is.

    Raises:
      ReportError: a results file is damaged.
    """
    found = sources.runs(workdir) + sources.committed(committed)
    others = sorted(committed.glob("aot/*.md"))
    workdir.mkdir(parents=True, exist_ok=True)
    return found, files.write_text(workdir / "index.html", page.build(found, others))
