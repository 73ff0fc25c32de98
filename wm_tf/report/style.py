"""The style sheet of the page, which loads no fonts, images or scripts."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #23262b; --faint: #676c75; --line: #e3e0d9;
  --real: #0b6fb0; --dream: #b8488f; --rule: #c27c00; --plan: #0d8a63; --chance: #8b9099;
  --good: #0b7351; --usable: #8a5a00; --poor: #b3261e;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #121418; --card: #1a1d22; --ink: #e9e7e1; --faint: #a0a6af; --line: #30343b;
  --real: #5db4ee; --dream: #e58cc6; --rule: #eeb24a; --plan: #3fcb9b; --chance: #8d939c;
  --good: #4fd6a7; --usable: #f0bb5e; --poor: #ff8a80;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.6rem); line-height: 1.15; letter-spacing: -0.02em;
  margin: 0.2rem 0 1rem; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 3.2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 0.4rem; }
p { max-width: 46rem; margin: 0.5rem 0; }
.eyebrow { color: var(--faint); font-size: 0.85rem; margin: 0; }
.lead { font-size: 1.12rem; max-width: 50rem; }
.faint, figcaption, caption { color: var(--faint); font-size: 0.88rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 1.5rem; align-items: start; }
.pair > * { min-width: 0; }
figure { margin: 1rem 0; }
figure img { display: block; border-radius: 8px; max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.wide img { min-width: 44rem; width: 100%; }
figure svg { display: block; width: 100%; max-width: 34rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: 0.4rem; max-width: 46rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 0.4rem 1.1rem; margin: 1rem 0; }
.card > figure { margin: 0.8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; }
caption { text-align: left; caption-side: bottom; padding-top: 0.5rem; }
th, td { text-align: left; padding: 0.45rem 0.9rem 0.45rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
tr:last-child > td, tr:last-child > th { border-bottom: 0; }
thead th { color: var(--faint); font-weight: 500; font-size: 0.85rem; white-space: nowrap; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.missing { color: var(--faint); font-style: italic; }
tr.group th { padding-top: 1.1rem; color: var(--faint); font-weight: 500; font-size: 0.85rem; }
tr.own th, tr.own td { font-weight: 650; }
.verdict { font-weight: 650; white-space: nowrap; }
.verdict.good { color: var(--good); } .verdict.usable { color: var(--usable); }
.verdict.poor { color: var(--poor); } .verdict.none { color: var(--faint); font-weight: 400; }
.bar { display: flex; height: 1.1rem; border-radius: 5px; overflow: hidden; gap: 2px;
  margin: 0.8rem 0 0.6rem; }
.bar > i { display: block; min-width: 2px; }
.key { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 2px;
  margin-right: 0.5em; }
details { border-top: 1px solid var(--line); padding: 0.7rem 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 500; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.88rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.8rem 1rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
td code, th code { overflow-wrap: anywhere; }
details td.number { white-space: normal; overflow-wrap: anywhere; }
footer { margin-top: 3rem; }
@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; }
  .minor { display: none; }
  th, td { padding-right: 0.6rem; }
  .card { padding: 0.4rem 0.8rem; }
  table.stack thead { display: none; }
  table.stack tr { display: block; padding: 0.7rem 0; border-bottom: 1px solid var(--line); }
  table.stack tr:last-child { border-bottom: 0; }
  table.stack th, table.stack td { display: block; border: 0; padding: 0.1rem 0; }
  table.stack td.inline { display: inline; padding-right: 0.4rem; }
  table.stack td[data-name]::before { content: attr(data-name) ": "; color: var(--faint);
    font-weight: 400; }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --faint: #444; --line: #ccc; --real: #0b6fb0;
    --dream: #b8488f; --rule: #c27c00; --plan: #0d8a63; --chance: #8b9099; --good: #0b7351;
    --usable: #8a5a00; --poor: #b3261e; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 1.6rem; } table { font-size: 0.88em; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .wide { overflow: visible; } .wide img { min-width: 0; }
  .bar > i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .pair { grid-template-columns: 1fr 1fr; } .pair .minor { display: none; }
}
"""
