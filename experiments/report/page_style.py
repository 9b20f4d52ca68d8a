"""The page's style sheet. One column; tables scroll by themselves; print wraps them instead."""

CSS = """
:root {
  color-scheme: light dark;
  --text: #1a1a1a; --quiet: #565656; --back: #ffffff; --panel: #f4f4f2; --line: #c9c9c4;
  --link: #00558c; --good: #00624a; --partly: #7a4b00; --bad: #9c2a00; --absent: #5f5f5f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e8e8e6; --quiet: #a9a9a5; --back: #161616; --panel: #222221; --line: #4a4a47;
    --link: #7cc4f2; --good: #5fcfae; --partly: #f0b95a; --bad: #ff9a70; --absent: #a0a09c;
  }
}
* { box-sizing: border-box; }
html { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; color: var(--text); background: var(--back);
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.08rem; margin-top: 1.8rem; }
h4, h5, h6 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, li, dd { max-width: 48rem; }
a { color: var(--link); }
small, .quiet, figcaption, caption { color: var(--quiet); font-size: .85rem; }
.claims { padding: 0; list-style: none; }
.claims > li { margin: 0 0 .9rem; padding: .1rem 0 .1rem .8rem;
  border-left: 3px solid var(--line); }
.claims ul { margin: .2rem 0 0; padding: 0; list-style: none; }
.claims li li { max-width: none; }
.claims ul ul { margin: 0 0 .2rem .2rem; color: var(--quiet); font-size: .85rem; }
.badge { display: inline-block; padding: 0 .5em; border: 1.5px solid currentColor;
  border-radius: 1em; font-size: .8rem; font-weight: 600; white-space: nowrap; }
.reproduced, .shown { color: var(--good); }
.same-direction { color: var(--partly); }
.not-reproduced, .not-shown { color: var(--bad); }
.not-run, .absent { color: var(--absent); }
.not-run { border-style: dashed; }
.scroll { overflow-x: auto; margin: .8rem 0; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.35; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; min-width: 2rem;
  max-width: 24rem; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
thead th, thead td { background: var(--panel); }
tbody td.middle { min-width: 10.5rem; overflow-wrap: anywhere; }
tbody td.long { min-width: 15rem; }
tbody th { font-weight: 600; min-width: 10.5rem; position: sticky; left: 0;
  background: var(--back); }
@media (max-width: 40rem) { tbody th { max-width: 40vw; overflow-wrap: break-word; } }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; padding: .3rem; background: #ffffff; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
@media print {
  @page { size: A4; margin: 14mm; }
  :root { color-scheme: light; --text: #000; --quiet: #444; --back: #fff; --panel: #eee;
    --line: #999; --link: #000; --good: #004d3a; --partly: #5c3800; --bad: #7a2100;
    --absent: #555; }
  html { font-size: 10px; }
  body { padding: 0; max-width: none; }
  .scroll { overflow: visible; }
  table { width: 100%; font-size: 7px; }
  p, li, dd { max-width: none; }
  th, td { max-width: none; padding: .2rem .3rem; }
  tbody th, th, tbody td[class] { min-width: 0; position: static; }
  thead th { overflow-wrap: anywhere; }
  tr, figure, .claims > li { break-inside: avoid; }
  h2, h3, h4, .quiet { break-after: avoid; }
  img { max-height: 90mm; width: auto; }
}
"""
