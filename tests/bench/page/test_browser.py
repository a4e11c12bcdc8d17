"""The page in a real browser: drawn, quiet, readable at every width, by mouse and by keyboard."""

from pathlib import Path

import pytest

from bench.page.__main__ import main
from tests.bench.page import examples
from tests.support.browser import in_chromium

WIDTHS = (390, 768, 1440)
SCHEMES = ("light", "dark")

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(120)]


browser_test = in_chromium("altair", "vl_convert")


@pytest.fixture(scope="module")
def page_path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = examples.save(folder / "run.jsonl", examples.grid())
    assert main([str(run), "-o", str(folder)]) == 0
    return folder / "index.html"


@pytest.fixture(scope="module")
def two_runs_path(tmp_path_factory) -> Path:
    """A page of two runs with every figure that there is, and names as long as real ones."""
    folder = tmp_path_factory.mktemp("report of two")
    everything = [*examples.grid(), *examples.studies()]
    long = "Hybrid(data=2, pipeline=2, tensor=2, micro_batches=4)"
    everything += [("bench/test_speedup.py::t", examples.cell(long))]
    runs = [
        examples.save(folder / name, everything, f"2026-03-0{day}T00:00:00+00:00")
        for day, name in enumerate(("old.jsonl", "new.jsonl"), 1)
    ]
    assert main([*map(str, runs), "-o", str(folder)]) == 0
    return folder / "index.html"


class Seen:
    """A page that was opened, and what it said and asked for."""

    def __init__(self, browser, path, width=1440, scheme="light", scripts=True):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        if scripts:
            self.page.wait_for_function("document.documentElement.dataset.drawn === 'yes'")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


MARKS = """figure => [...figure.querySelectorAll('.pane:not([hidden]) .chart')].map(chart =>
  chart.querySelectorAll('.mark-symbol path, .mark-rect path, .mark-line path, .mark-rule line, ' +
    '.mark-text.role-mark text').length)"""


of_one_and_of_two = pytest.mark.parametrize("page", ["page_path", "two_runs_path"])


@browser_test
@of_one_and_of_two
def test_all_figures_are_drawn_without_a_word_or_a_request(browser, page, request):
    page_path = request.getfixturevalue(page)
    with Seen(browser, page_path) as seen:
        assert seen.said == []
        assert seen.asked == [page_path.as_uri()]
        figures = seen.page.query_selector_all("figure")
        assert len(figures) >= 7
        for figure in figures:
            for marks in figure.evaluate(MARKS):
                assert marks > 0, figure.get_attribute("id")


TEXTS = """() => {
  const seen = [];
  for (const svg of document.querySelectorAll('.pane:not([hidden]) .chart svg')) {
    const frame = svg.getBoundingClientRect();
    const shown = t => t.textContent.trim() && getComputedStyle(t).opacity !== '0';
    const texts = [...svg.querySelectorAll('text')].filter(shown);
    const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
    const figure = svg.closest('figure').id;
    boxes.forEach(([text, box], i) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
          box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        seen.push(`${figure}: cut: ${text}`);
      for (const [other, b] of boxes.slice(i + 1)) {
        const wide = Math.min(box.right, b.right) - Math.max(box.left, b.left);
        const high = Math.min(box.bottom, b.bottom) - Math.max(box.top, b.top);
        if (wide > 1 && high > 3) seen.push(`${figure}: ${text} lies over ${other}`);
      }
    });
  }
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) seen.push(`the page is ${page.scrollWidth} wide`);
  for (const e of document.querySelectorAll('h1, h2, h3, h4, p, button, summary, figcaption'))
    if (e.clientWidth && e.scrollWidth > e.clientWidth + 1) seen.push(`cut: ${e.textContent}`);
  return seen;
}"""


@browser_test
@of_one_and_of_two
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_is_cut_or_lies_over_another(browser, page, width, request):
    page_path = request.getfixturevalue(page)
    with Seen(browser, page_path, width) as seen:
        assert seen.page.evaluate(TEXTS) == []
        for tab in seen.page.query_selector_all('[role="tab"]'):
            tab.click()
        seen.page.wait_for_timeout(300)
        assert seen.page.evaluate(TEXTS) == []


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return { a, l: 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b) };
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = light(getComputedStyle(e).backgroundColor);
      if (colour.a === 255) return colour.l;
    }
    return 1;
  };
  const seen = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.textContent.trim() || e.closest('script, style')) continue;
    if (!e.getClientRects().length) continue;  // not shown
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    // Text on marks has colours of its own, which test_style.py proves.
    if (svg && e.closest('.mark-text') && e.closest('.role-mark')) continue;
    const [a, b] = [light(svg ? style.fill : style.color).l, ground(e)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) seen.push(`${contrast.toFixed(2)}: ${node.textContent.trim()}`);
  }
  return seen;
}"""


@browser_test
@of_one_and_of_two
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_has_contrast(browser, page, scheme, request):
    page_path = request.getfixturevalue(page)
    with Seen(browser, page_path, scheme=scheme) as seen:
        assert seen.page.evaluate(CONTRAST) == []
        grounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
        found = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert found == grounds[scheme]


def points(figure):
    return len(figure.query_selector_all(".pane:not([hidden]) .mark-symbol path"))


@browser_test
@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_series_are_hidden_and_shown(browser, page_path, by):
    with Seen(browser, page_path) as seen:
        figure = seen.page.query_selector("#speedup-by-strategy")
        button = figure.query_selector('.series button[data-name="if messages were free"]')

        def press():
            if by == "mouse":
                button.click()
            else:
                button.focus()
                seen.page.keyboard.press("Space")
            seen.page.wait_for_timeout(100)

        everything = points(figure)
        press()
        assert button.get_attribute("aria-pressed") == "false"
        assert points(figure) == everything - 4  # two settings of two strategies
        press()
        assert button.get_attribute("aria-pressed") == "true"
        assert points(figure) == everything


@browser_test
@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_tabs_are_chosen(browser, page_path, by):
    with Seen(browser, page_path) as seen:
        figure = seen.page.query_selector("#speedup-by-workers")
        first, second, _ = figure.query_selector_all('[role="tab"]')
        # What is hidden stays hidden in a tab that is drawn later.
        figure.query_selector('.series button[data-name="DataParallel"]').click()
        if by == "mouse":
            second.click()
        else:
            first.focus()
            seen.page.keyboard.press("ArrowRight")
        seen.page.wait_for_selector("#speedup-by-workers-pane-2 svg")
        seen.page.wait_for_timeout(100)
        assert second.get_attribute("aria-selected") == "true"
        assert [pane.is_visible() for pane in figure.query_selector_all(".pane")] == [
            False,
            True,
            False,
        ]
        assert points(figure) == 4  # of one strategy, in two settings with two counts of workers


@browser_test
def test_values_are_shown_on_hover(browser, page_path):
    with Seen(browser, page_path) as seen:
        seen.page.locator("#speedup-by-strategy .mark-symbol path").first.hover(force=True)
        tooltip = seen.page.wait_for_selector("#vg-tooltip-element.visible")
        assert "strategy" in tooltip.inner_text()


@browser_test
def test_it_is_read_without_scripts(browser, page_path):
    with Seen(browser, page_path, 390, scripts=False) as seen:
        stills = seen.page.query_selector_all("figure .still svg")
        assert len(stills) >= 7
        assert all(still.is_visible() for still in stills)
        assert not any(b.is_visible() for b in seen.page.query_selector_all("button"))
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 390


@browser_test
def test_it_is_light_on_paper(browser, page_path):
    with Seen(browser, page_path, scheme="dark") as seen:
        seen.page.emulate_media(media="print")
        found = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert found == "rgb(255, 255, 255)"
        assert not seen.page.query_selector(".series button").is_visible()


@browser_test
def test_a_name_that_is_markup_is_shown_as_it_is(browser, tmp_path):
    results = [
        ("bench/test_speedup.py::t", examples.cell(examples.EVIL, workers)) for workers in (1, 2)
    ]
    run = examples.save(tmp_path / "run.jsonl", results, command=examples.EVIL)
    assert main([str(run), "-o", str(tmp_path)]) == 0
    with Seen(browser, tmp_path / "index.html") as seen:
        assert seen.said == []
        assert seen.page.query_selector_all("img") == []
        shown = seen.page.query_selector_all("#speedup-by-strategy svg text")
        assert any(examples.EVIL in text.text_content() for text in shown)
