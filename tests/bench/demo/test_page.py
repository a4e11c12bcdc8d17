"""The page in a browser: a race from its start to its end, drawings, and what people do to a page.

Chromium is the system's. Every request and every message of the console is looked at.
"""

import re
from contextlib import contextmanager
from itertools import pairwise
from urllib.parse import urlsplit

import pytest

from bench.report.demo_records import DemoRace
from tests.bench.demo.drawing import DRAWN
from tests.bench.demo.serving import Served
from tests.support.browser import in_chromium

LOADED = 60_000
"""Milliseconds, far beyond what anything takes on a quiet machine."""

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(150)]


@contextmanager
def page_of(browser, served: Served, refused: int = 0, **options):
    """A page of the demo that asks nobody else, and says nothing but so many refusals."""
    context = browser.new_context(**options)
    page = context.new_page()
    said, asked = [], set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.goto(served.address)
    page.locator("body[data-ready]").wait_for(timeout=LOADED)
    yield page
    context.close()
    assert [text for text in said if "status of 422" not in text] == []
    assert len(said) == refused
    assert asked == {urlsplit(served.address).netloc}


@pytest.fixture
def page(browser, served):
    with page_of(browser, served) as page:
        yield page


def fill(page, epochs: int, target: float = 60, rows: int = 100, **fields: str) -> None:
    page.fill("[name=epochs]", str(epochs))
    page.fill("[name=target]", str(target))
    for name, value in fields.items():
        page.select_option(f"[name={name}]", value)
    for field in page.locator("[name=batch_size]").all():
        field.fill(str(rows))
    for field in page.locator("[name=learning_rate]").all():
        field.fill("0.05")


def quickest_start(page) -> float:
    """Milliseconds until the page is ready; of several times, since others use the machine too."""
    took = []
    for _ in range(4):
        page.reload()
        page.locator("body[data-ready]").wait_for(timeout=LOADED)
        took.append(float(page.locator("body").get_attribute("data-ready")))
    return min(took)


def state(page, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#state")).to_contain_text(text, timeout=LOADED)


def draw(page, strokes) -> None:
    """Draw with the mouse, as a person does."""
    page.click("#clear")
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=3)
        page.mouse.up()


def reads(page, what: str) -> None:
    """Wait until both lanes read the drawing as `what`."""
    from playwright.sync_api import expect

    expect(page.locator(f".bars[data-reads='{what}']")).to_have_count(2, timeout=10_000)


def texts(page, name: str) -> list[str]:
    """What the lanes' tiles say under a name."""
    return page.locator(f"[data-is='{name}']").all_inner_texts()


@in_chromium("starlette", "uvicorn")
def test_a_race_is_won_and_its_nets_read_what_is_drawn(page, browser, served):
    assert quickest_start(page) < 1000
    fill(page, epochs=8)
    page.click("#start")
    state(page, "racing")
    with page_of(browser, served) as late:  # in the middle
        state(late, "racing")
        late.reload()
        state(late, "over")
        shown = ("training time", "epoch", "loss", "read right", "samples/s")
        for name in shown:
            assert texts(late, name) == texts(page, name)
        assert late.inner_text("#banner") == page.inner_text("#banner")
        assert late.inner_text("#differences") == page.inner_text("#differences")

    race = [each for each in served.run_file().records if isinstance(each, DemoRace)][-1]
    assert texts(page, "training time") == [f"{lane.seconds:.2f} s" for lane in race.lanes]
    assert texts(page, "read right") == [f"{lane.accuracy:.1%}" for lane in race.lanes]
    assert texts(page, "samples/s") == [f"{lane.samples_per_second:,.0f}" for lane in race.lanes]
    assert texts(page, "epoch") == ["8 of 8"] * 2
    first, second = (lane.target_seconds for lane in race.lanes)
    banner = page.inner_text("#banner")
    assert f"Lane 1 (mlp, Sequential) reached 60.0% after {first:.2f} s" in banner
    assert f"after {second:.2f} s: {first / second:.2f} times as fast as lane 1" in banner
    largest = race.differences[0].largest
    places = int(re.search(r"to (\d+) decimal places", page.inner_text("#differences"))[1])
    assert places >= 6
    assert 2 * largest <= 10**-places < 20 * largest
    tables = page.locator(".confusion table").all()
    for table, lane in zip(tables, race.lanes):
        right = [int(text or 0) for text in table.locator("td.right").all_inner_texts()]
        assert right == [row[k] for k, row in enumerate(lane.confusion)]

    for digit in "317":
        draw(page, DRAWN[digit])
        reads(page, digit)
    page.click("#example")
    assert re.fullmatch(r"It is: \d", page.locator("#truth", has_text="It is").inner_text())


@in_chromium("starlette", "uvicorn")
def test_a_race_is_paused_goes_on_without_a_lane_that_dies_and_is_stopped(page, served):
    fill(page, epochs=200)
    page.click("#start")
    state(page, "racing")
    page.click("#pause")
    state(page, "paused")
    page.wait_for_timeout(500)
    before = texts(page, "training time")
    page.wait_for_timeout(500)
    assert texts(page, "training time") == before
    page.click("#pause")
    state(page, "racing")
    victim = max(served.ranks(lane=2), key=lambda each: each.pid)
    victim.kill()
    reason = page.locator(".tile .reason")
    reason.wait_for(timeout=LOADED)
    assert f"(process {victim.pid}) has died" in reason.inner_text()
    page.click("#stop")
    state(page, "stopped")
    assert texts(page, "state") == ["stopped", "failed"]


@in_chromium("starlette", "uvicorn", "matplotlib")
def test_a_letter_is_read_and_one_is_added(page):
    fill(page, epochs=15, data="letters-printed")
    page.click("#start")
    state(page, "racing")
    draw(page, DRAWN["a"])
    page.select_option("[name=label]", "a")
    page.click("#teach button")
    added = r"Added as a: (every lane has it from epoch \d+ on|the next race on this data has it)\."
    assert re.fullmatch(added, page.locator("#taught", has_text="Added").inner_text())
    state(page, "over")
    reads(page, "a")
    assert page.locator("#seen").get_attribute("aria-label").startswith("The 16 by 8 picture")


@in_chromium("starlette", "uvicorn")
def test_what_cannot_be_is_said_on_the_page(browser, served):
    with page_of(browser, served, refused=1) as page:
        fill(page, epochs=100_000)
        page.click("#start")  # the browser itself says so, and nothing is posted
        assert not page.locator("#error").is_visible()
        page.evaluate("document.querySelector('[name=epochs]').max = 1e9")
        page.click("#start")
        page.locator("#error", has_text="epochs=100000: expected from 1 to 200").wait_for()


@in_chromium("starlette", "uvicorn")
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_overlaps_or_is_cut_at(browser, served, width):
    with page_of(browser, served, viewport={"width": width, "height": 900}) as page:
        if not served.race():
            fill(page, epochs=1)
            page.click("#start")
            state(page, "over")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.locator("section:visible, footer").all()
        edges = [each.bounding_box() for each in boxes]
        for above, below in pairwise(edges):
            assert above["y"] + above["height"] <= below["y"]
        controls = page.locator("button:visible, select:visible, input:visible, canvas:visible")
        places = [each.bounding_box() for each in controls.all()]
        for i, one in enumerate(places):
            assert one["x"] >= 0
            assert one["x"] + one["width"] <= width
            for other in places[i + 1 :]:
                assert not overlap(one, other), (one, other)


def overlap(a, b) -> bool:
    return (
        min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"]) > 1
        and min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"]) > 1
    )


@in_chromium("starlette", "uvicorn")
def test_it_can_be_used_without_a_mouse_and_by_a_screen_reader(page):
    names = page.evaluate(
        """[...document.querySelectorAll('input, select, button, canvas, [role=img]')].filter(
             (each) => !(each.labels?.length || each.textContent.trim() || each.ariaLabel ||
                       each.closest('.chart'))  // whose parts are one image
           ).map((each) => each.outerHTML)"""
    )
    assert names == []
    if not page.locator("#pad").is_visible():
        fill(page, epochs=1)
        page.locator("#start").focus()
        page.keyboard.press("Enter")
        state(page, "over")
    page.locator("#pad").focus()
    page.keyboard.press("Space")
    for _ in range(18):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.locator(".bars").first.wait_for()
    assert page.locator(".bars").count() == 2
