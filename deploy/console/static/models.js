// Quality over time: what was live on events that nobody had learned from.

import { lines } from "./charts.js";
import { number, rows, seconds } from "./figures.js";

const element = document.querySelector("#quality-chart");
if (element) {
  const found = rows("#quality-figures").map(({ cells }) => [seconds(cells[0]), ...[7, 8, 4, 5].map((at) => number(cells[at]))]);
  const chart = lines(element, {
    label: "NDCG@10 over time: foreseen by the live version, decayed popularity, each candidate and the version beside it",
    series: [{ name: "foreseen" }, { name: "popularity" }, { name: "candidate" }, { name: "beside it" }],
    digits: 4,
  });
  chart.set([0, 1, 2, 3, 4].map((at) => found.map((row) => row[at])));
}
