"""Small pieces of HTML, every text escaped."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

# Cells with more characters than this are kept from becoming towers.
_WIDTHS = ((70, "long"), (12, "middle"))
_PNG = b"\x89PNG\r\n\x1a\n"


def tag(name: str, *inner: str, **attributes: str) -> str:
    """An element around markup; `class_` is the attribute class."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{given}>{''.join(inner)}</{name}>"


def paragraph(text: str, **attributes: str) -> str:
    """A paragraph of plain text."""
    return tag("p", escape(text), **attributes)


def link(anchor: str, text: str) -> str:
    """A link inside the page."""
    return tag("a", escape(text), href=f"#{anchor}")


def listing(items: Iterable[str], **attributes: str) -> str:
    """An unordered list of markup."""
    return tag("ul", *(tag("li", item) for item in items), **attributes)


def table(
    caption: str, header: Sequence[str], lines: Sequence[Sequence[str]], titled: bool = False
) -> str:
    """A table of plain text whose first column names its lines; it scrolls in its own container.

    Args:
      titled: the caption stands above the table already, and is only told to who cannot see it.
    """
    cells = [[_breakable(cell) for cell in line] for line in lines]
    return markup_table(caption, header, cells, titled)


def _breakable(text: str) -> str:
    """Escaped; what has no spaces, a path of results, may be broken at the joints of its names."""
    return escape(text) if " " in text else re.sub("[/_]", r"\g<0><wbr>", escape(text))


def markup_table(
    caption: str, header: Sequence[str], lines: Sequence[Sequence[str]], titled: bool = False
) -> str:
    """The same with cells of markup."""
    head = tag("tr", *(_head(name) for name in header))
    body = (tag("tr", tag("th", line[0], scope="row"), *map(_cell, line[1:])) for line in lines)
    shown = "" if titled else tag("caption", escape(caption))
    inner = tag("table", shown, tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _head(name: str) -> str:
    return tag("th", escape(name), scope="col") if name else tag("td")


def _cell(text: str) -> str:
    if text.startswith("not run"):
        return tag("td", text, class_="middle absent")
    for characters, name in _WIDTHS:
        if len(text) > characters:
            return tag("td", text, class_=name)
    return tag("td", text)


def figure(path: Path, alternative: str) -> str:
    """A PNG inside the page, with its size so that nothing moves while it is decoded."""
    data = path.read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    image = (
        f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" '
        f'width="{width // 2}" height="{height // 2}" alt="{escape(alternative)}">'
    )
    return tag("figure", image, tag("figcaption", escape(alternative)))


def is_png(path: Path) -> bool:
    """Whether the file starts as a PNG with a size."""
    with open(path, "rb") as stream:
        start = stream.read(24)
    return start.startswith(_PNG) and len(start) == 24


def from_markdown(text: str, level: int) -> str:
    """Our own Markdown: headings (the first at `level`), pipe tables, bullets, paragraphs."""
    parts, title = [], ""
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines[0].startswith("#"):
            marks, _, title = lines[0].partition(" ")
            parts.append(tag(f"h{min(6, level + len(marks) - 1)}", escape(title)))
            lines = lines[1:]
        if len(lines) > 1 and lines[0].startswith("|"):
            parts.append(_pipe_table(title, lines))
        elif lines and lines[0].startswith("- "):
            parts.append(listing(escape(line[2:]) for line in lines))
        elif lines:
            parts.append(paragraph(" ".join(lines)))
    return "\n".join(parts)


def _pipe_table(title: str, lines: Sequence[str]) -> str:
    split = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
    cells = [[cell.strip().replace("\\|", "|") or "–" for cell in line] for line in split]
    body = [line for line in cells[2:] if len(line) == len(cells[0])]
    return table(title or "measurements", cells[0], body, titled=bool(title))
