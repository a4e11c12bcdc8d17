// The drawing pad, and what the nets make of what is drawn.

import { post } from "./server.js";
import { colour, find, make, percent } from "./text.js";

const pad = find("pad");
const pen = pad.getContext("2d");
const ASKED = 100; // milliseconds between two questions
const MOST = 10; // classes with a bar; of more, the most probable ones
const STEP = 0.03; // of an arrow key, share of the pad

let race = null; // the race whose nets read
let strokes = [];
let drawing = false;
let cursor = null; // of the keyboard
let asks = false; // whether a question is under way
let again = false; // whether to ask once more then

const rounded = (value) => Math.round(1000 * Math.min(1, Math.max(0, value))) / 1000;

function draw() {
  pen.clearRect(0, 0, pad.width, pad.height);
  pen.lineWidth = pad.width / 14;
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = "#111";
  for (const stroke of strokes) {
    pen.beginPath();
    for (const [x, y] of stroke) pen.lineTo(x * pad.width, y * pad.height);
    if (stroke.length === 1) pen.lineTo(stroke[0][0] * pad.width + 0.1, stroke[0][1] * pad.height);
    pen.stroke();
  }
  if (cursor) {
    const [x, y] = [cursor[0] * pad.width, cursor[1] * pad.height];
    pen.lineWidth = 2;
    pen.strokeStyle = drawing ? "#b3261e" : "#0a5ea8";
    pen.strokeRect(x - 6, y - 6, 12, 12);
  }
}

function point(event) {
  const place = pad.getBoundingClientRect();
  return [rounded((event.clientX - place.left) / place.width), rounded((event.clientY - place.top) / place.height)];
}

pad.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  pad.setPointerCapture(event.pointerId);
  pad.focus({ preventScroll: true });
  cursor = null;
  drawing = true;
  strokes.push([point(event)]);
  changed();
});
pad.addEventListener("pointermove", (event) => {
  if (!drawing || cursor) return;
  for (const each of event.getCoalescedEvents?.() ?? [event]) strokes.at(-1).push(point(each));
  changed();
});
for (const over of ["pointerup", "pointercancel"]) {
  pad.addEventListener(over, () => { if (!cursor) drawing = false; });
}
pad.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key !== " " && !(event.key in moves)) return;
  event.preventDefault();
  cursor ??= [0.5, 0.2];
  if (event.key === " ") {
    drawing = !drawing;
    if (drawing) strokes.push([cursor]);
  } else {
    const [x, y] = moves[event.key];
    cursor = [rounded(cursor[0] + STEP * x), rounded(cursor[1] + STEP * y)];
    if (drawing) strokes.at(-1).push(cursor);
  }
  changed();
});
pad.addEventListener("blur", () => {
  if (cursor) drawing = false;
  cursor = null;
  draw();
});

function changed() {
  find("truth").textContent = "";
  draw();
  ask();
}

// Asks what the nets read, not more often than every ASKED milliseconds.
export async function ask() {
  if (!race || !strokes.length || !race.written) return;
  if (asks) { again = true; return; }
  asks = true;
  try {
    const begin = performance.now();
    show(await post("read", { race: race.number, strokes }));
    pad.dataset.took = performance.now() - begin;
  } catch (error) {
    find("truth").textContent = error.message;
  }
  setTimeout(() => {
    asks = false;
    if (again) { again = false; ask(); }
  }, ASKED);
}

function show({ picture, lanes }) {
  const seen = find("seen");
  const [height, width] = [picture[0].length, picture[0][0].length];
  [seen.width, seen.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      const channel = picture[picture.length === 3 ? c : 0];
      image.data[4 * i + c] = channel[Math.floor(i / width)][i % width];
    }
    image.data[4 * i + 3] = 255;
  }
  seen.getContext("2d").putImageData(image, 0, 0);
  seen.setAttribute("aria-label", `The ${height} by ${width} picture that the nets see`);
  find("bars").replaceChildren(...lanes.map((probabilities, lane) => bars(probabilities, lane)));
}

function bars(probabilities, lane) {
  const title = `Lane ${lane + 1}`;
  const swatch = make("span", { class: `swatch lane-${lane + 1}` });
  if (!probabilities || probabilities.includes(null)) {
    return make("div", { class: "bars" }, make("h3", {}, swatch, `${title}: no answer yet`));
  }
  const order = probabilities.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]);
  const best = order[0][1];
  const chosen = order.slice(0, MOST).map(([, i]) => i).sort((a, b) => a - b);
  const rows = chosen.map((i) => {
    const bar = make("i");
    bar.style.width = `${100 * probabilities[i]}%`;
    bar.style.background = colour(lane);
    return make("div", { class: i === best ? "bar best" : "bar" },
      make("span", {}, race.labels[i]), bar, make("b", {}, percent(probabilities[i])));
  });
  const said = `${title} reads ${race.labels[best]}`;
  return make("div", { class: "bars", role: "img", "data-reads": race.labels[best],
    "aria-label": `${said}, ${percent(probabilities[best])}` },
    make("h3", {}, swatch, said), ...rows);
}

export function clear() {
  strokes = [];
  drawing = false;
  find("bars").replaceChildren();
  find("truth").textContent = "";
  find("taught").textContent = "";
  const seen = find("seen");
  seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
  draw();
}

// Has the nets of another race read from now on.
export function use(next) {
  const other = !race || !next || race.number !== next.number;
  race = next;
  if (!other || !race) return;
  if (race.labels.length === 10 && race.written) find("what").textContent = "a digit";
  else find("what").textContent = "a lower-case letter";
  find("hint").textContent = race.hint;
  find("pad-side").querySelector("#pad-help").hidden = !race.written;
  pad.hidden = find("clear").hidden = find("teach").hidden = !race.written;
  find("teach").elements.label.replaceChildren(...race.labels.map((label) => make("option", {}, label)));
  ask();
}

find("clear").addEventListener("click", clear);
find("example").addEventListener("click", async () => {
  clear();
  try {
    const said = await post("example", { race: race.number });
    show(said);
    find("truth").textContent = `It is: ${said.label}`;
  } catch (error) {
    find("truth").textContent = error.message;
  }
});
find("teach").addEventListener("submit", async (event) => {
  event.preventDefault();
  const label = find("teach").elements.label.value;
  try {
    const { epoch } = await post("teach", { race: race.number, strokes, label });
    find("taught").textContent = epoch === null
      ? `Added as ${label}: the next race on this data has it.`
      : `Added as ${label}: every lane has it from epoch ${epoch} on.`;
  } catch (error) {
    find("taught").textContent = error.message;
  }
});
