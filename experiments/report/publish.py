"""The page of all results and its first figures, from results of all kinds to files."""

from pathlib import Path

from experiments.report import files, needs, overview, page, sources, strings


def write(workdir: Path, committed: Path) -> tuple[list[sources.Source], Path]:
    """Reads everything, then writes the page; returns what it shows and where it is.

    Raises:
      ReportError: a results file is damaged.
    """
    found = sources.runs(workdir) + sources.committed(committed)
    others = sorted(committed.glob("aot/*.md"))
    workdir.mkdir(parents=True, exist_ok=True)
    needed, by_string, gained = needs.lines(found), strings.lines(found), overview.lines(found)
    files.write_text(workdir / "needs.md", needs.markdown(needed))
    files.replace(workdir / "needs.png", lambda path: needs.draw(needed, path))
    files.write_text(workdir / "strings.md", strings.markdown(by_string))
    files.replace(workdir / "strings.png", lambda path: strings.draw(by_string, path))
    files.write_text(workdir / "overview.md", overview.markdown(gained))
    files.replace(workdir / "overview.png", lambda path: overview.draw(gained, path))
    return found, files.write_text(workdir / "index.html", page.build(found, others, workdir))
