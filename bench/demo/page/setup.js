// The controls of a race: which data, which lanes.

import { find, make } from "./text.js";

const form = find("setup");
let known = null;

const option = (value, text, missing) => {
  const made = make("option", { value }, missing ? `${text} (${missing})` : text);
  made.disabled = Boolean(missing);
  return made;
};

const field = (label, control) => make("label", {}, label, control);

const input = (name, value, attributes) =>
  make("input", { name, value, type: "number", required: "", ...attributes });

function lane(number, given) {
  const net = make("select", { name: "net" });
  for (const [name, { title }] of Object.entries(known.nets)) net.append(option(name, `${name}: ${title}`));
  const strategy = make("select", { name: "strategy" });
  for (const name of Object.keys(known.strategies)) strategy.append(option(name, name));
  const workers = input("workers", given.workers, { min: 1, max: known.workers, step: 1 });
  const batch = input("batch_size", given.batch_size, { min: 1, max: known.batch, step: 1 });
  const rate = input("learning_rate", given.learning_rate, { min: 0.000001, max: known.rate, step: "any" });
  net.value = given.net;
  strategy.value = given.strategy;
  const remove = make("button", { type: "button", class: "remove" }, "Remove this lane");
  const place = make("fieldset", {},
    make("legend", {}, make("span", { class: `swatch lane-${number}` }), `Lane ${number}`),
    make("div", { class: "fields" }, field("Net", net), field("Strategy", strategy),
      field(`Workers (${known.cores} cores here)`, workers), field("Batch size", batch),
      field("Learning rate", rate)),
    make("div", { class: "buttons" }, remove));
  const plain = () => {
    workers.disabled = strategy.value === "Sequential";
    if (workers.disabled) workers.value = 1;
    else if (workers.value === "1") workers.value = Math.min(2, known.workers);
  };
  strategy.addEventListener("change", plain);
  net.addEventListener("change", () => { rate.value = known.nets[net.value].rate; });
  remove.addEventListener("click", () => { show(lanes().filter((_, i) => i !== number - 1)); });
  workers.disabled = strategy.value === "Sequential";
  return place;
}

function lanes() {
  return [...find("lanes").children].map((place) => {
    const value = (name) => place.querySelector(`[name=${name}]`).value;
    return {
      net: value("net"), strategy: value("strategy"), workers: Number(value("workers")),
      batch_size: Number(value("batch_size")), learning_rate: Number(value("learning_rate")),
    };
  });
}

function show(given) {
  find("lanes").replaceChildren(...given.map((each, i) => lane(i + 1, each)));
  const [fewest, most] = known.lanes;
  for (const button of find("lanes").querySelectorAll(".remove")) button.hidden = given.length <= fewest;
  find("add").disabled = given.length >= most;
  adapt();
}

// Nets that do not take the pictures of the data set cannot be chosen.
function adapt() {
  const data = known.data.find((each) => each.name === form.elements.data.value);
  for (const select of find("lanes").querySelectorAll("[name=net]")) {
    for (const each of select.options) each.disabled = Boolean(data.nets[each.value]);
    if (select.selectedOptions[0].disabled) {
      select.value = "mlp";
      select.dispatchEvent(new Event("change"));
    }
  }
  const refused = Object.values(data.nets).filter(Boolean);
  find("data-why").hidden = !refused.length;
  find("data-why").textContent = refused.join("; ");
  find("together-why").hidden = form.elements.together.value === "no";
}

export function begin(choices) {
  known = choices;
  for (const { name, title, missing } of known.data) {
    form.elements.data.append(option(name, `${name}: ${title}`, missing));
  }
  form.elements.epochs.max = known.epochs;
  form.elements.data.addEventListener("change", adapt);
  form.elements.together.addEventListener("change", adapt);
  find("add").addEventListener("click", () => show([...lanes(), lanes().at(-1)]));
  form.addEventListener("submit", (event) => { event.preventDefault(); find("start").click(); });
  const workers = Math.min(2, known.workers);
  const net = { net: "mlp", batch_size: 128, learning_rate: known.nets.mlp.rate };
  fill({
    data: known.data[0].name, epochs: 20, target: 0.95, dtype: "float64", together: false,
    lanes: [{ ...net, strategy: "Sequential", workers: 1 }, { ...net, strategy: "SharedDataParallel", workers }],
  });
}

// Shows the settings of a race in the controls.
export function fill(settings) {
  form.elements.data.value = settings.data;
  form.elements.epochs.value = settings.epochs;
  form.elements.target.value = +(100 * settings.target).toFixed(3);
  form.elements.dtype.value = settings.dtype;
  form.elements.together.value = settings.together ? "yes" : "no";
  show(settings.lanes);
}

// The settings in the controls; null if the browser finds one that cannot be.
export function read() {
  if (!form.reportValidity()) return null;
  return {
    data: form.elements.data.value,
    epochs: Number(form.elements.epochs.value),
    target: Number(form.elements.target.value) / 100,
    dtype: form.elements.dtype.value,
    together: form.elements.together.value === "yes",
    lanes: lanes(),
  };
}
