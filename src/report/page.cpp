#include "page.h"

#include "daug/report/html_parts.h"

namespace daug::report {

const std::string_view kStyle = R"css(
:root { color-scheme: light dark;
  --page: #f7f7f5; --panel: #ffffff; --text: #1c1f24; --muted: #59616d; --line: #d8dbe0; --accent: #1f5fa8;
  --soft: #e8eff8; --warn: #8a5200; --warn-soft: #fdf3e1; --good: #17693a; --good-soft: #e3f4e9;
  --s0: #1f5fa8; --s1: #c2410c; --s2: #15803d; --s3: #8b2fc9; --s4: #0e7490; --s5: #a16207; --s6: #be185d; --s7: #57606a; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #121418; --panel: #1a1d23; --text: #e7e9ec; --muted: #a2abb7; --line: #343a44; --accent: #8ab8f5;
  --soft: #1f2b3b; --warn: #f2c06b; --warn-soft: #33291a; --good: #7fd6a0; --good-soft: #1b3225;
  --s0: #7fb2f0; --s1: #f59762; --s2: #74cf92; --s3: #cf9bf5; --s4: #5fc9dd; --s5: #e0b74a; --s6: #f48fbb; --s7: #aab2bd; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 3.5rem; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 0.5rem; padding: 0.25rem 0.75rem; background: var(--panel); z-index: 2; }
header, .layout { max-width: 84rem; margin: 0 auto; padding: 0 clamp(0.9rem, 3vw, 2.5rem); }
header { padding-top: 1.75rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.75rem; padding-top: 0.6rem; border-top: 2px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: 1.08rem; margin: 1.75rem 0 0.5rem; overflow-wrap: anywhere; }
p { margin: 0.6rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.subtitle { color: var(--muted); margin: 0.35rem 0 0; max-width: none; }
.notice { margin: 1rem 0; max-width: none; padding: 0.6rem 0.9rem; border-left: 4px solid var(--warn);
  background: var(--warn-soft); color: var(--warn); font-weight: 600; }
nav { position: sticky; top: 0; z-index: 1; background: var(--page); border-bottom: 1px solid var(--line);
  margin: 0 calc(-1 * clamp(0.9rem, 3vw, 2.5rem)); padding: 0 clamp(0.9rem, 3vw, 2.5rem); }
nav ul { display: flex; gap: 1.1rem; overflow-x: auto; list-style: none; margin: 0; padding: 0.6rem 0; }
nav li { flex: none; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--accent); text-decoration: underline; }
main { min-width: 0; padding-bottom: 4rem; }
main > section:first-child > h2 { border-top: 0; margin-top: 0.75rem; }
@media (min-width: 68rem) {
  .layout { display: grid; grid-template-columns: 11.5rem minmax(0, 1fr); column-gap: 2.5rem; }
  html { scroll-padding-top: 1rem; }
  nav { align-self: start; top: 1rem; border: 0; margin: 1rem 0 0; padding: 0; max-height: calc(100vh - 2rem); overflow-y: auto; }
  nav ul { flex-direction: column; gap: 0.15rem; border-left: 2px solid var(--line); padding: 0.2rem 0 0.2rem 0.9rem; } }
figure { margin: 1rem 0; }
figcaption, caption { color: var(--muted); font-size: 0.92rem; text-align: left; overflow-wrap: anywhere; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem; }
.key-figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: 0.75rem;
  margin: 1rem 0; padding: 0; }
.key-figures > div { display: flex; flex-direction: column; margin: 0; padding: 0.75rem 0.9rem; }
.key-figures dt { order: 1; font-weight: 600; }
.key-figures dd { margin: 0; }
.key-figures .big { font-size: 1.6rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.key-figures .detail { order: 2; color: var(--muted); font-size: 0.85rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 1rem 0; background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; }
caption { padding: 0.6rem; }
th, td { padding: 0.4rem 0.45rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 9rem; }
.number { font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; }
.interval { white-space: nowrap; font-size: 0.88em; }
tr.best { background: var(--soft); font-weight: 700; }
tr.best th { font-weight: 700; box-shadow: inset 4px 0 var(--accent); }
.key-values th { width: 34%; color: var(--muted); }
.key-values td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.controls { display: flex; flex-wrap: wrap; gap: 0.6rem 2rem; align-items: center; margin-bottom: 0.6rem; font-size: 0.9rem; }
.controls label { display: flex; align-items: center; gap: 0.6rem; }
.controls input { width: 9rem; height: 1.75rem; accent-color: var(--accent); }
.controls [hidden] { display: none; }
.scale-legend { display: grid; grid-template-columns: auto minmax(6rem, 10rem) auto; gap: 0.1rem 0.5rem; align-items: center; }
.scale-legend b { grid-column: 1 / -1; font-weight: 500; color: var(--muted); }
.scale-legend i { height: 0.8rem; border: 1px solid var(--line); border-radius: 2px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.image-row { padding: 0.7rem 0; border-top: 1px solid var(--line); }
.lead { margin-bottom: 0.6rem; }
.image-row > p { margin: 0 0 0.45rem; font-weight: 600; }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(8rem, 45%), 1fr)); gap: 0.7rem; }
.cell { margin: 0; }
.cell figcaption { font-size: 0.85rem; line-height: 1.35; margin-top: 0.25rem; }
.stack { position: relative; background: #000; border-radius: 4px; overflow: hidden; }
.stack img { display: block; width: 100%; height: auto; }
.stack .small { image-rendering: pixelated; }
.stack .overlay { position: absolute; inset: 0; height: 100%; opacity: var(--opacity, 0.7); }
pre { margin: 0; overflow-x: auto; font-size: 0.85rem; line-height: 1.4; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; margin: 1rem 0; }
.charts .panel { margin: 0; }
.panel > .title { color: var(--text); font-weight: 600; }
.chart { display: block; width: 100%; max-width: 32rem; height: auto; margin-top: 0.4rem; }
.chart text { fill: var(--muted); font-size: 12px; }
@media (max-width: 27rem) { .chart text { font-size: 15px; } }
.chart .x { text-anchor: middle; }
.chart .y { text-anchor: end; }
.chart .tick { stroke: var(--line); stroke-width: 1; }
.chart .axis { stroke: var(--muted); stroke-width: 1; fill: none; }
.chance { stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 2 4; vector-effect: non-scaling-stroke; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); stroke-dasharray: 7 3; }
.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3; }
.s4 { stroke: var(--s4); stroke-dasharray: 14 4; } .s5 { stroke: var(--s5); stroke-dasharray: 5 5; }
.s6 { stroke: var(--s6); stroke-dasharray: 9 3 2 3 2 3; } .s7 { stroke: var(--s7); stroke-dasharray: 1 2; }
.mark { fill: var(--panel); stroke-width: 1.5; stroke-dasharray: none; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; list-style: none; margin: 0.3rem 0 0; padding: 0; font-size: 0.88rem;
  overflow-wrap: anywhere; }
.swatch { width: 34px; height: 8px; margin-right: 0.4rem; vertical-align: middle; }
.intervals ul { list-style: none; margin: 0.6rem 0 0; padding: 0; }
.intervals li { display: grid; grid-template-columns: minmax(0, 1fr); column-gap: 1rem; align-items: baseline; padding: 0.15rem 0; }
.intervals .name { overflow-wrap: anywhere; }
.intervals .number { color: var(--muted); font-size: 0.9rem; }
.intervals .best .name { font-weight: 700; }
.intervals li svg { grid-column: 1 / -1; width: 100%; height: 20px; display: block; overflow: visible; }
.intervals svg * { vector-effect: non-scaling-stroke; }
.rail { stroke: var(--line); stroke-width: 1; }
.whisker { stroke: var(--s0); stroke-width: 2; fill: none; }
.intervals .value { stroke: var(--s0); stroke-width: 5; }
.intervals .best .whisker, .intervals .best .value { stroke: var(--s1); }
.scale { position: relative; height: 1.4rem; border-top: 1px solid var(--muted); font-size: 0.82rem; color: var(--muted); }
.scale span { position: absolute; transform: translateX(-50%); top: 0.1rem; }
.scale span::before { content: ""; position: absolute; left: 50%; top: -0.35rem; height: 0.35rem; border-left: 1px solid var(--muted); }
.axis-label { color: var(--muted); font-size: 0.85rem; margin: 0.2rem 0 0; text-align: center; max-width: none; }
@media (min-width: 25rem) { .intervals li { grid-template-columns: minmax(0, 1fr) auto; } }
@media (min-width: 40rem) {
  .intervals li { grid-template-columns: minmax(8rem, 16rem) minmax(0, 1fr) 13rem; align-items: center; }
  .intervals li svg { grid-column: 2; grid-row: 1; }
  .intervals .number { grid-column: 3; }
  .intervals .scale, .intervals .axis-label { margin-left: calc(min(16rem, 100% - 22rem) + 1rem); margin-right: 14rem; } }
.hits { display: flex; gap: 0.8rem; overflow-x: auto; padding-bottom: 0.5rem; }
.hits .cell { flex: 0 0 8.5rem; }
.hits .query { border-right: 2px solid var(--line); padding-right: 0.8rem; flex-basis: 9.3rem; }
.badges { display: flex; flex-wrap: wrap; gap: 0.2rem; margin-top: 0.25rem; }
.badge { border: 1px solid var(--line); border-radius: 4px; padding: 0 0.35rem; font-size: 0.78rem; line-height: 1.5; overflow-wrap: anywhere; }
.badge.shared { border-color: var(--good); color: var(--good); background: var(--good-soft); font-weight: 600; }
@media print {
  :root { color-scheme: light; }
  nav, .controls label, .skip { display: none; }
  body { background: #fff; font-size: 10pt; }
  .layout, header { display: block; max-width: none; padding: 0; }
  .scroll, .hits, pre { overflow: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .hits { flex-wrap: wrap; }
  table { font-size: 8pt; }
  th, td { padding: 0.2rem; overflow-wrap: anywhere; }
  tbody th { min-width: 4rem; }
  td.number, .interval { overflow-wrap: normal; }
  .interval { white-space: normal; }
  tr, .cell, .panel, .image-row { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
)css";

// No variables: programs that set papers do not know them. Colours and dashes are the page's in light.
const std::string_view kSvgStyle = R"css(
text { font: 12px "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #59616d; }
.title { font-weight: bold; fill: #1c1f24; } .best { font-weight: bold; }
.x { text-anchor: middle; } .y { text-anchor: end; }
.tick { stroke: #d8dbe0; } .axis { stroke: #59616d; fill: none; }
.chance { stroke: #59616d; stroke-width: 1.5; stroke-dasharray: 2 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { stroke: #1f5fa8; } .s1 { stroke: #c2410c; stroke-dasharray: 7 3; } .s2 { stroke: #15803d; stroke-dasharray: 2 3; }
.s3 { stroke: #8b2fc9; stroke-dasharray: 9 3 2 3; } .s4 { stroke: #0e7490; stroke-dasharray: 14 4; }
.s5 { stroke: #a16207; stroke-dasharray: 5 5; } .s6 { stroke: #be185d; stroke-dasharray: 9 3 2 3 2 3; }
.s7 { stroke: #57606a; stroke-dasharray: 1 2; }
.mark { fill: #ffffff; stroke-width: 1.5; stroke-dasharray: none; }
.whisker { stroke: #1f5fa8; stroke-width: 2; fill: none; } .value { fill: #1f5fa8; }
)css";

// Without scripts the slider stays hidden and overlays keep their initial opacity.
const std::string_view kScript = R"js(
for (const input of document.querySelectorAll('input[data-opacity]')) {
  const figure = input.closest('figure'), output = input.nextElementSibling;
  const show = () => {
    figure.style.setProperty('--opacity', input.value);
    output.textContent = Math.round(100 * input.value) + ' %';
  };
  input.addEventListener('input', show);
  input.closest('label').hidden = false;
  show();
}
)js";

}  // namespace daug::report
