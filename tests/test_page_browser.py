"""The page in headless Chromium: nothing overflows, nothing is broken, at phone and desk widths."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from experiments.report import page, sources

CHROMIUM = shutil.which("chromium")
COMMITTED = Path(__file__).parent.parent / "experiments" / "results"
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not on PATH (Debian package chromium)"
)
# Chromium's own window is never narrower than 500 pixels, so the page is looked at in a frame.
MEASURE = """
const say = (words) => { document.getElementById("said").textContent = JSON.stringify(words); };
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const inner = frame.contentDocument, root = inner.documentElement;
    const all = (what) => [...inner.querySelectorAll(what)];
    const right = (element) => element.getBoundingClientRect().right;
    const outside = all("body *").filter((element) =>
      !element.closest(".scroll *") && right(element) > root.clientWidth + 1);
    found[frame.name] = {
      client: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
      outside: outside.map((element) => element.outerHTML.slice(0, 80)),
      pictures: all("img").length,
      broken: all("img").filter((image) => !image.complete || !image.naturalWidth).length,
      links: all("a").length,
      astray: all("a").map((a) => a.getAttribute("href")).filter(
        (href) => !href.startsWith("#") || !inner.getElementById(href.slice(1))),
      wide: all(".scroll").filter((box) => box.scrollWidth > box.clientWidth).length,
      hidden: all("td, th, p, li").filter((cell) => cell.getBoundingClientRect().height < 8).length,
    };
  }
  say(found);
});
"""


def measure(text: str, directory: Path) -> dict[str, dict]:
    """What Chromium sees of the page at each width."""
    frames = "".join(
        f'<iframe name="{width}" width="{width}" height="800" style="border:0" '
        f'srcdoc="{escape(text)}"></iframe>'
        for width in (375, 1280)
    )
    path = directory / "measure.html"
    path.write_text(
        f'<!DOCTYPE html><meta charset="utf-8">{frames}<p id="said"></p><script>{MEASURE}</script>'
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={directory / 'profile'}", "--virtual-time-budget=20000"]
    command += ["--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    said = re.search(r'<p id="said">(.+?)</p>', done.stdout, re.DOTALL)
    assert said is not None, done.stderr[-2000:]
    return json.loads(unescape(said[1]))


def test_the_page_fits_a_phone_and_a_desk_and_nothing_in_it_is_broken(tmp_path):
    found = sources.committed(COMMITTED)
    text = page.build(found, sorted(COMMITTED.glob("aot/*.md")), COMMITTED)
    seen = measure(text, tmp_path)
    assert list(seen) == ["375", "1280"]
    for width, at in seen.items():
        assert at["client"] == int(width) and at["scroll"] <= at["client"], at
        assert at["outside"] == []
        assert at["pictures"] == len(list(COMMITTED.rglob("*.png"))) and at["broken"] == 0
        assert at["links"] > 50 and at["astray"] == []
        assert at["hidden"] == 0
    assert seen["375"]["wide"] > 0  # else nothing was there to overflow


def test_what_overflows_is_seen(tmp_path):
    """The measurement itself: a page with one fault of each kind."""
    picture = '<img src="data:image/png;base64,AAAA" alt="">'
    wide = f'<div style="width:900px">x</div>{picture}<a href="#away">x</a>'
    seen = measure(f"<!DOCTYPE html><body style='margin:0'>{wide}", tmp_path)
    assert seen["375"]["scroll"] == 900 and len(seen["375"]["outside"]) == 1
    assert seen["1280"]["scroll"] == 1280 and seen["1280"]["outside"] == []
    assert seen["375"]["broken"] == 1 and seen["375"]["astray"] == ["#away"]
