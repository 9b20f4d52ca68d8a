"""The page of all results and its overview, from run directories and committed results to files."""

from pathlib import Path

from experiments.report import files, overview, page, sources


def write(workdir: Path, committed: Path) -> tuple[list[sources.Source], Path]:
    """Reads everything, then writes the page; returns what it shows and where it is.

    Raises:
      ReportError: a results file is damaged.
    """
    found = sources.runs(workdir) + sources.committed(committed)
    others = sorted(committed.glob("aot/*.md"))
    workdir.mkdir(parents=True, exist_ok=True)
    at_a_glance = overview.lines(found)
    files.write_text(workdir / "overview.md", overview.markdown(at_a_glance))
    drawn = files.replace(workdir / "overview.png", lambda path: overview.draw(at_a_glance, path))
    return found, files.write_text(workdir / "index.html", page.build(found, others, drawn))
