// A rollout's band: how its confidence sequence narrows against the margin, sample by sample.

import { lines } from "./charts.js";
import { number, renew, rows, seconds } from "./figures.js";

const percent = (value) => (value === null ? null : value * 100);
// The logarithm of a ratio as what is more, or less, in percent: tables have it so.
const gain = (ratio) => percent(ratio == null ? null : Math.expm1(ratio));
let chart;
let columns;

function readSamples() {
  const found = rows("#evidence-figures").map(({ cells }) => [seconds(cells[0]), ...[3, 2, 4].map((at) => percent(number(cells[at])))]);
  return found.filter(([, estimate]) => estimate !== null);
}

function draw() {
  const element = document.querySelector("#evidence-chart");
  if (!element) return;
  const margin = document.querySelector("#rollout").dataset.margin;
  const samples = readSamples();
  const level = margin === "" ? null : gain(-Number(margin));
  columns = [0, 1, 2, 3].map((at) => samples.map((sample) => sample[at]));
  columns.push(samples.map(() => level), samples.map(() => 0));
  chart = lines(element, {
    label: "What the canary earns more, or less, than the baseline over time, with what chance allows and the margin",
    series: [
      { name: "about", low: 2, high: 3 },
      { name: "at least", color: 0, dash: [2, 3] },
      { name: "at most", color: 0, dash: [2, 3] },
      { name: "margin", color: 4, dash: [8, 4] },
      { name: "no difference", color: 2, dash: [8, 4] },
    ],
    unit: " %",
    digits: 1,
    height: 280,
    // At first chance allows nearly everything: beyond a double or a half nothing is to be seen.
    range: (_, low, high) => [Math.max(-100, low ?? -10), Math.min(100, high ?? 10)],
  });
  chart.set(columns);
}

function add(point) {
  if (!chart || point.estimate == null) return false;
  const time = point.time / 1000;
  if (columns[0].length && time <= columns[0].at(-1)) return true;
  const added = [time, ...[point.estimate, point.lower, point.upper].map(gain), columns[4].at(-1), 0];
  columns = columns.map((column, at) => [...column, added[at]]);
  chart.set(columns);
  return true;
}

export async function update(sample) {
  const box = document.querySelector("#rollout");
  const live = box && sample.rollouts?.rollouts?.find((each) => each.rollout === box.dataset.rollout);
  if (!live) return;
  const isNew = String(live.sequence) !== box.dataset.sequence;
  const begins = !chart && live.point?.estimate != null;
  // The controller has taken a step, or the first reward has come.
  if ((isNew || begins) && (await renew("#rollout"))) draw();
  else if (live.point) add(live.point);
}

draw();
