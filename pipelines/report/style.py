"""The page's style: light and dark, desktop and phone, screen and paper."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1b2430; --quiet: #566274; --line: #d5dbe3; --panel: #f4f6f9;
  --kept: #2f6fab; --gone: #c4500f; --faint: #c9d9ea; --third: #7a8aa0; --outside: #c4500f18;
  --bad: #a92508; --good: #1c6b3a; --removed: #fdd8c8; --added: #cfe3f7; --link: #1f5c99;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --text: #e4e8ed; --quiet: #a3afbd; --line: #38424e; --panel: #1d232a;
    --kept: #62a8e5; --gone: #f0884d; --faint: #2f4a63; --third: #6d7c8e; --outside: #f0884d20;
    --bad: #ff9a80; --good: #7fd19b; --removed: #5e2f1b; --added: #1d4467; --link: #8cc1f2;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; }
p { margin: .4rem 0 .75rem; max-width: 46rem; }
.quiet, caption, figcaption span { color: var(--quiet); }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0; margin: 1rem 0; list-style: none; }
nav a { display: inline-block; padding: .3rem 0; }
code, pre, .pair {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em;
}
code { unicode-bidi: isolate; }
code, pre, .line, tbody th, .notice, caption, h3 { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--panel); padding: .75rem; margin: .5rem 0; }
.notice { border-left: 4px solid var(--bad); background: var(--panel); padding: .6rem .9rem; margin: 1rem 0; }
.notice h2 { border: 0; padding: 0; margin: 0 0 .25rem; font-size: 1.05rem; }
.notice.plain { border-color: var(--third); }
.notice p { margin: .4rem 0 0; }
.notice ul { margin: 0; padding-left: 1.1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.3rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div { background: var(--panel); padding: .6rem .8rem; }
.tiles dt { color: var(--quiet); font-size: .86rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; line-height: 1.3; }
.tiles dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--quiet); }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .9rem; padding-bottom: .25rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 600; } thead th { font-size: .86rem; color: var(--quiet); vertical-align: bottom; }
tbody th { font-weight: 400; }
tr.sum th, tr.sum td { font-weight: 600; }
.num { text-align: right; } td.num { white-space: nowrap; }
.drawn { width: 38%; vertical-align: middle; }
.bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); }
svg { display: block; width: 100%; }
svg.bar { height: .85rem; background: var(--panel); }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: var(--quiet); }
.middle { text-anchor: middle; } .end { text-anchor: end; } svg .strong { fill: var(--text); }
.kept { fill: var(--kept); } .gone { fill: var(--gone); } .faint { fill: var(--faint); } .third { fill: var(--third); }
.outside { fill: var(--outside); } .grid { stroke: var(--line); } .axis { stroke: var(--third); }
.bound { stroke: var(--text); stroke-dasharray: 4 3; } .mark { stroke: var(--text); stroke-width: 6; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.25rem 1.5rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .9rem; line-height: 1.35; margin-bottom: .35rem; }
figcaption span { display: block; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em; vertical-align: -.05em; }
.key:first-child { margin-left: 0; }
.key.kept { background: var(--kept); } .key.gone { background: var(--gone); }
.key.faint { background: var(--faint); } .key.third { background: var(--third); }
details { margin: .75rem 0; }
summary { cursor: pointer; padding: .3rem 0; color: var(--link); }
.clusters { padding: 0; margin: 0; list-style: none; }
.clusters > li { border-bottom: 1px solid var(--line); padding: .6rem 0; break-inside: avoid; }
.clusters ul { margin: .2rem 0 0; padding: 0; list-style: none; }
.pair { border: 1px solid var(--line); margin: .75rem 0; line-height: 1.4; }
.pair [role=row] { display: grid; grid-template-columns: 1fr 1fr; }
.pair [role=row] > * { padding: 0 .5rem 0 3.2rem; position: relative; min-width: 0; overflow: hidden; }
.pair [role=row] > * + * { border-left: 1px solid var(--line); }
.pair [role=row] > [role=columnheader] { padding: .4rem .5rem; background: var(--panel); font-weight: 600; }
.pair .line { white-space: pre-wrap; unicode-bidi: isolate; display: block; min-height: 1.4em; }
.pair .at { position: absolute; left: 0; width: 2.7rem; text-align: right; color: var(--quiet); user-select: none; }
.pair .gap { background: var(--panel); color: var(--quiet); text-align: center; }
.pair del, .pair ins { text-decoration: none; }
.pair del { background: var(--removed); } .pair ins { background: var(--added); }
@media (max-width: 44rem) {
  body { padding: 1rem 1rem 3rem; }
  .drawn { width: 24%; } .many .drawn { display: none; }
  th, td { padding-right: .6rem; }
  tbody th { min-width: 7rem; } .many th, .many td { padding-right: .4rem; }
  .pair [role=row] { grid-template-columns: 1fr; }
  .pair [role=row] > * + * { border-left: 0; }
  .pair .same [role=cell] + [role=cell], .pair .none { display: none; }
  .stack thead { position: absolute; clip-path: inset(50%); height: 1px; width: 1px; overflow: hidden; }
  .stack, .stack tbody { display: block; overflow-wrap: anywhere; }
  .stack tr { display: block; border-bottom: 1px solid var(--line); padding: .4rem 0; }
  .stack caption, .stack th, .stack td { display: block; border: 0; padding: 0; }
}
@media print {
  :root {
    --page: #fff; --text: #000; --quiet: #444; --line: #bbb; --panel: #f4f4f4; --kept: #2f6fab; --gone: #c4500f;
    --faint: #c9d9ea; --third: #7a8aa0; --outside: #c4500f18; --bad: #a92508; --good: #1c6b3a; --link: #000;
    --removed: #fdd8c8; --added: #cfe3f7;
  }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav { display: none; }
  h2, h3, summary { break-after: avoid; } tr, .tiles div { break-inside: avoid; }
  details::details-content { display: block; content-visibility: visible; }
}
"""
