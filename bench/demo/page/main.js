// The page: what the server tells is shown, and what is clicked is posted.

import * as charts from "./charts.js";
import * as pad from "./pad.js";
import { choices, listen, post } from "./server.js";
import * as setup from "./setup.js";
import { count, find, make, number, percent, places, seconds } from "./text.js";

const STATES = {
  preparing: "getting ready: data are loaded and processes started",
  racing: "racing", paused: "paused", over: "over", stopped: "stopped",
};
const LANE_STATES = {
  starting: "starting", ready: "ready", racing: "training", finished: "finished",
  failed: "failed", stopped: "stopped",
};

let race = null;

function error(text) {
  find("error").hidden = !text;
  find("error").textContent = text;
}

async function attempt(what, keys) {
  error("");
  try {
    await post(what, keys);
  } catch (problem) {
    error(problem.message);
  }
}

const underWay = () => race && !["over", "stopped"].includes(race.state);

function buttons() {
  find("start").hidden = underWay();
  find("start").textContent = race ? "Start again" : "Start";
  find("pause").hidden = find("stop").hidden = !underWay();
  find("pause").textContent = race?.state === "paused" ? "Go on" : "Pause";
  find("setup").inert = Boolean(underWay());
  const turns = race?.settings.together ? "all lanes at the same time" : "lanes take turns";
  find("state").textContent = race
    ? `Race ${race.number}: ${STATES[race.state]}${race.state === "racing" ? `, ${turns}` : ""}${race.reason ? ` (${race.reason})` : ""}`
    : "";
}

function tile(lane, i) {
  const rows = [
    ["state", LANE_STATES[lane.state]],
    ["training time", seconds(lane.seconds)],
    ["epoch", `${lane.epoch} of ${race.settings.epochs}`],
    ["loss", number(lane.loss, 4)],
    ["read right", percent(lane.final_accuracy ?? lane.accuracy)],
    ["samples/s", count(lane.samples_per_second)],
    ["cores in use", number(lane.cores, 1)],
  ];
  const made = make("div", { class: "tile" },
    make("h3", {}, make("span", { class: `swatch lane-${i + 1}` }), `Lane ${i + 1}: ${lane.title}`),
    make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { "data-is": name }, value)])));
  if (lane.reason) made.append(make("p", { class: "reason" }, lane.reason));
  return made;
}

// Who has reached the target, and how much sooner than the first lane.
function banner() {
  const base = race.lanes[0];
  const target = percent(race.settings.target);
  const lines = race.lanes.flatMap((lane, i) => {
    if (lane.target_seconds === null) return [];
    const said = `Lane ${i + 1} (${lane.title}) reached ${target} after ${seconds(lane.target_seconds)}`;
    if (!i || race.settings.together || lane.target_seconds === 0) return [said];
    if (base.target_seconds === null) return [`${said}; lane 1 is not there after ${seconds(base.seconds)}`];
    return [`${said}: ${(base.target_seconds / lane.target_seconds).toFixed(2)} times as fast as lane 1`];
  });
  const text = lines.join("\n");
  find("banner").hidden = !text;
  if (find("banner").textContent !== text) find("banner").textContent = text; // said aloud once
}

function differences() {
  return race.differences.map(({ lanes: [a, b], largest, why }) => {
    const pair = `Lanes ${a} and ${b}: `;
    if (largest === null) return make("li", {}, pair + (why || "a weight is no number any more"));
    const digits = places(largest);
    const same = largest === 0 ? "the same net, to the last bit"
      : digits >= 3 ? `the same net, to ${digits} decimal places` : "not the same net";
    const because = why ? ` (${why})` : "";
    return make("li", {}, `${pair}${same}. Largest difference of two weights: ${largest.toPrecision(3)}${because}`);
  });
}

function confusion(lane, i) {
  const head = make("tr", {}, make("td"), ...race.labels.slice(0, lane.confusion.length).map((label) => make("th", { scope: "col" }, label)));
  const rows = lane.confusion.map((row, k) => make("tr", {}, make("th", { scope: "row" }, race.labels[k]),
    ...row.map((value, j) => make("td", { class: j === k ? "right" : value ? "wrong" : "" }, value ? String(value) : ""))));
  const caption = `Lane ${i + 1}: ${percent(lane.final_accuracy)} of all test pictures read right`;
  return make("div", { class: "confusion", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, make("span", { class: `swatch lane-${i + 1}` }), caption), head, ...rows));
}

function describe() {
  charts.describe((what) => race.lanes.map((lane, i) =>
    `Lane ${i + 1} after ${seconds(lane.seconds)}: ${what === "loss" ? number(lane.loss, 4) : percent(lane.accuracy)}.`).join(" "));
}

function showRace(told) {
  const isNew = told && told.number !== race?.number;
  race = told;
  buttons();
  document.body.dataset.ready ??= performance.now(); // all that was is shown, and controls work
  find("live").hidden = find("write").hidden = !race;
  pad.use(race);
  if (!race) return;
  if (isNew) setup.fill(race.settings);
  find("test-rows").textContent = race.test_rows ? count(race.test_rows) : "some";
  find("tiles").replaceChildren(...race.lanes.map(tile));
  banner();
  charts.build(race.lanes.map((lane) => lane.points), race.settings.target);
  describe();
  const finished = race.lanes.map((lane, i) => [lane, i]).filter(([lane]) => lane.confusion.length);
  find("end").hidden = !finished.length;
  find("differences").replaceChildren(...differences());
  find("confusions").replaceChildren(...finished.map(([lane, i]) => confusion(lane, i)));
}

function showTurn({ lane, point, ...news }) {
  if (!race) return;
  Object.assign(race.lanes[lane], news).points.push(point);
  find("tiles").children[lane].replaceWith(tile(race.lanes[lane], lane));
  banner();
  charts.redraw();
  describe();
  pad.ask();
}

find("start").addEventListener("click", () => {
  const settings = setup.read();
  if (settings) attempt("start", settings);
});
find("pause").addEventListener("click", () => attempt(race.state === "paused" ? "go_on" : "pause", { race: race.number }));
find("stop").addEventListener("click", () => attempt("stop", { race: race.number }));

const known = await choices();
find("idle").textContent = known.idle;
find("record").textContent = known.record;
setup.begin(known);
buttons();
listen({ race: showRace, turn: showTurn }, (lost) => { find("lost").hidden = !lost; });
