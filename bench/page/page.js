// Draws the charts of each figure, shows one tab of it, and hides the series that readers hide.
"use strict";

for (const still of document.querySelectorAll(".only-with-scripts")) still.hidden = false;

const { config } = JSON.parse(document.getElementById("shared").textContent);
const drawing = [];
for (const figure of document.querySelectorAll("figure[data-figure]")) {
  const { rows, tabs } = JSON.parse(figure.querySelector("script.charts").textContent);
  const views = [];
  const panes = [...figure.querySelectorAll(".pane")];
  const hidden = new Set();
  const buttons = [...figure.querySelectorAll(".series button")];
  const names = buttons.map((button) => button.dataset.name);
  const shown = () => names.filter((name) => !hidden.has(name));

  // A pane that is not shown has no width, so it is drawn when it is first shown.
  async function draw(pane) {
    if (pane.dataset.drawn) return;
    pane.dataset.drawn = "yes";
    const places = [...pane.querySelectorAll(".chart")];
    await Promise.all(places.map(async (place, number) => {
      const spec = tabs[panes.indexOf(pane)][number];
      Object.assign(spec, { config, datasets: { ...spec.datasets, rows } });
      for (const param of spec.params ?? []) if (param.name === "shown") param.value = shown();
      const { view } = await vegaEmbed(place, spec, { renderer: "svg", actions: false });
      views.push(view);
    }));
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const show = button.getAttribute("aria-pressed") === "false";
      button.setAttribute("aria-pressed", String(show));
      hidden[show ? "delete" : "add"](button.dataset.name);
      for (const view of views) view.signal("shown", shown()).runAsync();
    });
  }

  const choices = [...figure.querySelectorAll('[role="tab"]')];
  function choose(number) {
    choices.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === number));
      tab.tabIndex = i === number ? 0 : -1;
      panes[i].hidden = i !== number;
    });
    drawing.push(draw(panes[number]));
  }
  choices.forEach((tab, number) => {
    tab.addEventListener("click", () => choose(number));
    tab.addEventListener("keydown", (event) => {
      const last = choices.length - 1;
      const to = { ArrowRight: number === last ? 0 : number + 1, ArrowLeft: number ? number - 1 : last, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
      choices[to].focus();
    });
  });
  if (choices.length) choose(0);
  else drawing.push(draw(panes[0]));
}
Promise.all(drawing).then(() => { document.documentElement.dataset.drawn = "yes"; });
