// Lines and bands over time, by uPlot, in the colours of the page's theme.
//
//   const chart = lines(element, { label: "Events a second", series: [{ name: "click" }, ...], unit: "/s" });
//   chart.set([seconds, clicks, ...]);          // columns, as uPlot has them; times in seconds
//
// A series may be `{ name, low: 2, high: 3 }`: the band between two other columns is drawn behind it.
// A chart is a picture to a screen reader: say the same in a table beside it.

import uPlot from "./vendor/uPlot.esm.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seriesColor = (at) => color(`--series-${(at % 6) + 1}`);
const faint = (hex) => `${hex}33`;
const DAY_S = 86400;

// A moment in UTC, as everywhere on these pages.
function writeMoment(seconds) {
  return seconds == null ? "–" : `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

// Where ticks are, in UTC and by 24 hours; the day stands below where it is not that of the tick before.
function writeTicks(_plot, ticks, _axis, _space, step) {
  let before = "";
  return ticks.map((seconds) => {
    const text = new Date(seconds * 1000).toISOString();
    const day = text.slice(0, 10);
    const time = step < DAY_S ? text.slice(11, step < 60 ? 19 : 16) : "";
    const shown = day === before ? time : [time, day].filter(Boolean).join("\n");
    before = day;
    return shown;
  });
}

function makeOptions(element, { label, series, unit = "", digits = 0, range, height = 220, time = true }) {
  const write = (value) =>
    value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }) + unit;
  const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
  return {
    width: element.clientWidth || 300,
    height,
    scales: { x: { time }, y: range ? { range } : {} },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { live: true },
    cursor: { y: false },
    // A time with its seconds is wider than what uPlot leaves for a tick.
    axes: [time ? { ...axis, space: 75, values: writeTicks } : axis, { ...axis, size: 60, values: (_, ticks) => ticks.map(write) }],
    series: [
      time ? { value: (_, seconds) => writeMoment(seconds) } : {},
      ...series.map((each, at) => ({
        label: each.name,
        stroke: each.hidden ? "transparent" : seriesColor(each.color ?? at),
        width: each.hidden ? 0 : 2,
        dash: each.dash,
        points: { show: false },
        value: (_, value) => write(value),
      })),
    ],
    bands: series.flatMap((each, at) =>
      each.low ? [{ series: [each.high, each.low], fill: faint(seriesColor(each.color ?? at)) }] : [],
    ),
  };
}

export function lines(element, options) {
  let columns = [[], ...options.series.map(() => [])];
  let plot;
  const draw = () => {
    plot?.destroy();
    plot = new uPlot(makeOptions(element, options), columns, element);
  };
  element.classList.add("chart");
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", options.label);
  draw();
  dark.addEventListener("change", draw);
  const resized = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: options.height ?? 220 }));
  resized.observe(element);
  return {
    remove() {
      dark.removeEventListener("change", draw);
      resized.disconnect();
      plot.destroy();
    },
    set(given) {
      columns = given;
      plot.setData(columns);
    },
  };
}
