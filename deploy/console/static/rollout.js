// A rollout's band: how its confidence sequence narrows against the margin, sample by sample.

import { lines } from "./charts.js";
import { number, renew, rows, seconds } from "./figures.js";

const percent = (value) => (value === null ? null : value * 100);
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
  const level = margin === "" ? null : -100 * Number(margin);
  columns = [0, 1, 2, 3].map((at) => samples.map((sample) => sample[at]));
  columns.push(samples.map(() => level), samples.map(() => 0));
  chart = lines(element, {
    label: "Reward beside the baseline over time, with its confidence sequence and the margin",
    series: [
      { name: "about", low: 2, high: 3 },
      { name: "at least", color: 0, dash: [2, 3] },
      { name: "at most", color: 0, dash: [2, 3] },
      { name: "margin", color: 4, dash: [8, 4] },
      { name: "no difference", color: 2, dash: [8, 4] },
    ],
    unit: " %",
    digits: 2,
    height: 280,
  });
  chart.set(columns);
}

function add(point) {
  if (!chart || point.estimate == null) return false;
  const time = point.time / 1000;
  if (columns[0].length && time <= columns[0].at(-1)) return true;
  const added = [time, ...[point.estimate, point.lower, point.upper].map((value) => percent(value ?? null)), columns[4].at(-1), 0];
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
