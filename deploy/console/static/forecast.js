// Draws each table of days as a chart: what came, what was expected, and the interval as a band.

import { lines } from "./charts.js";

function readRows(table) {
  const rows = [...table.tBodies[0].rows].map((row) => [
    Date.parse(row.querySelector("time").dateTime) / 1000,
    ...[...row.querySelectorAll("data")].map((data) => Number(data.value)),
  ]);
  return [0, 1, 2, 3, 4].map((column) => rows.map((row) => row[column]));
}

for (const place of document.querySelectorAll(".forecast-chart")) {
  const table = place.parentElement.querySelector("table.days");
  const chart = lines(place, {
    label: "What came on the last days, and what had been expected of each; the table below has the figures",
    series: [
      { name: "came" },
      { name: "expected", low: 4, high: 3, dash: [6, 4] },
      { name: "to", hidden: true },
      { name: "from", hidden: true },
    ],
    digits: 1,
  });
  const [times, came, expected, low, high] = readRows(table);
  chart.set([times, came, expected, high, low]);
}
