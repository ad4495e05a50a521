// Page "Now": each sample renews its numbers and its lines. Where more than numbers changes (a variant, a
// server's state), the page's parts are drawn anew by the server.

import { lines } from "./charts.js";

const STEP_S = { hour: 10, day: 300 };
const KEPT_S = { hour: 3600, day: 86400 };
const CHARTS = {
  events: { label: "Events a second, by type", prefix: "events.", unit: "/s", digits: 1 },
  answers: { label: "Answers a second, by variant, and fallbacks", prefix: "answers.", also: ["fallbacks"], unit: "/s", digits: 1 },
  latency: { label: "Milliseconds from event to answer", prefix: "latency.", unit: " ms" },
  lag: { label: "Messages that workers have not committed, by topic", prefix: "lag." },
};

const page = document.querySelector("#now");
const note = document.querySelector("#history-note");
let span = "hour";
let history;
let drawn = {};
let isDrawing = false;

const find = (answer, path) => path.split(".").reduce((part, name) => part?.[name], answer);

function write(value, { digits, percent }) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return percent ? `${(100 * value).toLocaleString("en", options)} %` : value.toLocaleString("en", options);
}

function showNumbers(answer) {
  for (const element of page.querySelectorAll("[data-now]")) {
    const value = find(answer, element.dataset.now);
    const known = element.querySelector("data");
    if (typeof value !== "number") {
      if (known) element.textContent = "–";
    } else if (known?.value !== String(value)) {
      const data = document.createElement("data");
      data.value = String(value);
      data.textContent = write(value, { digits: Number(element.dataset.digits), percent: "percent" in element.dataset });
      element.replaceChildren(data);
    }
  }
}

async function drawAnew(shape) {
  if (isDrawing) return;
  isDrawing = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    // The session may have ended; a server that is away is asked again with the next sample.
    if (answer.redirected) location.reload();
    if (answer.redirected || !answer.ok) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of page.querySelectorAll("[data-part]")) {
      const renewed = found.querySelector(`[data-part="${part.dataset.part}"]`);
      if (renewed) part.replaceChildren(...renewed.childNodes);
    }
    page.dataset.shape = found.querySelector("#now")?.dataset.shape ?? shape;
  } finally {
    isDrawing = false;
  }
}

function sumLag(answer) {
  const lags = {};
  for (const { topic, lag } of answer.partitions) lags[`lag.${topic}`] = (lags[`lag.${topic}`] ?? 0) + lag;
  return lags;
}

// The newest point of each line, as the history has it.
function readPoint(answer) {
  const point = {
    "answers.all": answer.all_answers.per_second,
    fallbacks: answer.fallbacks.per_second,
    "latency.p50": answer.latency.minute.p50_ms,
    "latency.p99": answer.latency.minute.p99_ms,
    ...sumLag(answer),
  };
  for (const each of answer.events) point[`events.${each.type || each.topic}`] = each.per_second;
  for (const { variant, per_second: rate } of answer.answers) {
    const name = `answers.${variant}`;
    point[name] = rate == null ? null : (point[name] ?? 0) + rate;
  }
  return point;
}

function addPoint(answer) {
  const time = answer.time;
  if (history.times.length && time - history.times.at(-1) < 1000 * STEP_S[span]) return;
  const point = readPoint(answer);
  for (const [name, value] of Object.entries(point)) {
    if (!history.series.some((each) => each.name === name) && value) {
      history.series.push({ name, values: history.times.map(() => null) });
    }
  }
  history.times.push(time);
  for (const each of history.series) each.values.push(point[each.name] ?? null);
  while (history.times[0] < time - 1000 * KEPT_S[span]) {
    history.times.shift();
    for (const each of history.series) each.values.shift();
  }
  draw();
}

function draw() {
  note.textContent = history.times.length ? "" : "Nothing has been watched yet: the lines begin now.";
  for (const element of document.querySelectorAll("[data-chart]")) {
    const name = element.dataset.chart;
    const { prefix, also = [], ...options } = CHARTS[name];
    const all = history.series.filter((each) => each.name.startsWith(prefix) || also.includes(each.name));
    // What was always 0 is no line to look at, where others are.
    const moved = all.filter((each) => each.values.some((value) => value));
    const shown = moved.length ? moved : all;
    const names = shown.map((each) => each.name.replace(prefix, ""));
    if (drawn[name]?.names !== names.join()) {
      drawn[name]?.chart.remove();
      element.replaceChildren();
      const chart = lines(element, { ...options, series: names.map((each) => ({ name: each })) });
      drawn[name] = { names: names.join(), chart };
    }
    drawn[name].chart.set([history.times.map((time) => time / 1000), ...shown.map((each) => each.values)]);
  }
}

async function show(chosen) {
  const answer = await fetch(`/v1/admin/history?span=${chosen}`);
  if (!answer.ok) {
    note.textContent = "The history cannot be read now.";
    return;
  }
  span = chosen;
  history = await answer.json();
  document.querySelector("#span-name").textContent = span;
  for (const button of document.querySelectorAll("[data-span]")) {
    button.setAttribute("aria-pressed", String(button.dataset.span === span));
  }
  draw();
}

export function update(sample) {
  const answer = sample.now;
  if (!answer?.shape) return;
  if (!page) {
    // It was drawn before anything was seen.
    location.reload();
    return;
  }
  if (answer.shape !== page.dataset.shape) drawAnew(answer.shape);
  else showNumbers(answer);
  if (history) addPoint(answer);
}

if (page) {
  document.querySelector("#spans").hidden = false;
  for (const button of document.querySelectorAll("[data-span]")) {
    button.addEventListener("click", () => show(button.dataset.span));
  }
  show(span);
}
