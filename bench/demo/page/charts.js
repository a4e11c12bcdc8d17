// The curves: one line for each lane, against the lane's own clock.

import { colour, find, plainColour } from "./text.js";

const DASHES = [[], [8, 4], [2, 4], [10, 3, 2, 3]];
const REDRAWN = 200; // milliseconds

class Chart {
  constructor(id, options) {
    this.place = find(id);
    this.options = options;
    this.plot = null;
  }

  // lanes: of points (seconds, loss, accuracy).
  build(lanes, target) {
    this.plot?.destroy();
    const grid = { stroke: plainColour("edge"), width: 1 };
    const axis = { stroke: plainColour("quiet"), grid, ticks: grid };
    const series = lanes.map((_, i) => ({
      label: `lane ${i + 1}`, stroke: colour(i), width: 2, dash: DASHES[i], spanGaps: true,
      points: { show: false },
    }));
    if (this.options.target) {
      series.push({ label: "target", stroke: plainColour("quiet"), width: 1, points: { show: false } });
    }
    this.plot = new uPlot({
      width: this.place.clientWidth, height: this.place.clientHeight,
      legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false, range: (u, low, high) => [0, Math.max(high ?? 0, 0.1)] }, y: this.options.scale },
      axes: [{ ...axis, values: (u, ticks) => ticks.map((tick) => `${tick} s`) },
             { ...axis, size: 60, values: this.options.values }],
      series: [{}, ...series],
    }, [[0], ...series.map(() => [null])], this.place);
    this.draw(lanes, target);
  }

  draw(lanes, target) {
    const tables = lanes.map((points) => [points.map((p) => p[0]), points.map((p) => this.options.pick(p))]);
    if (this.options.target) {
      const last = Math.max(0.1, ...lanes.map((points) => points.at(-1)?.[0] ?? 0));
      tables.push([[0, last], [target, target]]);
    }
    this.plot.setData(uPlot.join(tables.map((table) => table[0].length ? table : [[0], [null]])));
  }

  fit() {
    this.plot?.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
  }
}

const loss = new Chart("loss", {
  pick: (point) => point[1] > 0 ? point[1] : null,
  scale: { distr: 3 },
  values: (u, ticks) => ticks.map((tick) => tick === null ? "" : `${+tick.toPrecision(1)}`),
});
const accuracy = new Chart("accuracy", {
  pick: (point) => point[2],
  scale: { range: (u, low, high) => [Math.min(low ?? 0, 0.9), 1] },
  values: (u, ticks) => ticks.map((tick) => `${Math.round(100 * tick)}%`),
  target: true,
});

let shown = null;
let waits = false;

export function build(lanes, target) {
  shown = { lanes, target };
  loss.build(lanes, target);
  accuracy.build(lanes, target);
}

export function redraw() {
  if (waits || !shown) return;
  waits = true;
  setTimeout(() => {
    waits = false;
    loss.draw(shown.lanes);
    accuracy.draw(shown.lanes, shown.target);
  }, REDRAWN);
}

export function describe(text) {
  loss.place.setAttribute("aria-label", `Loss against seconds of training. ${text("loss")}`);
  accuracy.place.setAttribute("aria-label", `Test pictures read right, against seconds of training. ${text("accuracy")}`);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (shown) build(shown.lanes, shown.target);
});
addEventListener("resize", () => { loss.fit(); accuracy.fit(); });
