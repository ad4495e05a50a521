// The curve of a training: held-out quality and loss by epoch, the members of an ensemble one after another.

import { lines } from "./charts.js";
import { number, rows } from "./figures.js";

const element = document.querySelector("#curve-chart");
if (element) {
  const found = rows("#curve-figures").map(({ cells }, at) => [at + 1, number(cells[3])]);
  const chart = lines(element, {
    label: "NDCG@10 on held-out events after each epoch",
    series: [{ name: "held-out NDCG@10" }],
    digits: 4,
    time: false,
  });
  chart.set([0, 1].map((at) => found.map((row) => row[at])));
}
