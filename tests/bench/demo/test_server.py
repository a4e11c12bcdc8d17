"""A race is run for real and kept; who may not ask is refused; and nothing is left behind."""

import os
import signal
import time
from itertools import pairwise

import numpy as np
import psutil
import pytest

from bench.report.demo_records import DemoRace, Slice
from strategies.training import History
from tests.bench.demo.drawing import DRAWN
from tests.bench.demo.serving import PARALLEL, RACE, SEQUENTIAL, Served, serving, starting, within
from tests.support.optional import needs

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(150)]

LONG = RACE | {"epochs": 200, "target": 1.0}


@pytest.fixture
def race(served: Served):
    """The number of a long race that is under way."""
    number = start(served, LONG)
    served.wait(lambda race: race["state"] == "racing")
    return number


def start(served: Served, settings: dict) -> int:
    status, said = served.post("start", settings)
    assert status == 200, said
    return said["race"]


def over(race):
    return race if race["state"] in ("over", "stopped") else None


@needs("starlette", "uvicorn")
def test_a_race_runs_to_its_end_and_is_kept(served):
    number = start(served, RACE)
    turns = []
    for kind, told in served.watch():
        if kind == "turn":
            turns.append(told)
        elif told and over(told):
            break
    assert [lane["state"] for lane in told["lanes"]] == ["finished", "finished"]

    records = [each for each in served.run_file().records if getattr(each, "race", 0) == number]
    slices = [each for each in records if isinstance(each, Slice)]
    (kept,) = [each for each in records if isinstance(each, DemoRace)]
    histories = [each for each in served.run_file().records if isinstance(each, History)][-2:]
    assert {history.strategy for history in histories} == {"Sequential", "DataParallel"}
    for i, (lane, result) in enumerate(zip(told["lanes"], kept.lanes)):
        (history,) = [each for each in histories if each.strategy == result.strategy]
        own = [each for each in slices if each.lane == i + 1]
        # What the page was told is what was kept, and what the training loop itself says.
        assert lane["points"][1:] == [[each.seconds, each.loss, each.accuracy] for each in own]
        assert lane["seconds"] == result.seconds == history.seconds[-1] == own[-1].seconds
        assert own[-1].samples == lane["samples"] == history.samples[-1] == 6_000
        assert own[-1].step == history.steps == 60
        np.testing.assert_allclose(
            np.average([each.loss for each in own], weights=np.diff([0, *(s.step for s in own)])),
            np.mean(history.loss),
        )
        looks = [each for each in own if each.accuracy is not None]
        assert result.target_seconds == next(s.seconds for s in looks if s.accuracy >= 0.6)
        counts = np.array(result.confusion)
        assert counts.sum() == 333
        assert result.accuracy == np.trace(counts) / 333 > 0.6
    (difference,) = kept.differences
    assert 0 < difference.largest < 1e-9
    assert difference.why == ""


@needs("starlette", "uvicorn")
def test_lanes_take_turns_of_equal_time(served, race):
    seen, seconds = [], [0.0, 0.0]
    for kind, told in served.watch():
        if kind == "turn":
            seconds[told["lane"]] = told["seconds"]
            seen.append(abs(seconds[0] - seconds[1]))
            if len(seen) == 20:
                break
    # A turn and a step; and what a busy machine adds to a step.
    assert np.median(seen) < 0.2
    assert min(seconds) > 0.5


@needs("starlette", "uvicorn")
def test_lanes_that_train_at_the_same_time_are_both_under_way(served):
    start(served, LONG | {"together": True})
    turns = (told for kind, told in served.watch() if kind == "turn")
    lanes = {told["lane"] for told, _ in zip(turns, range(10))}
    ranks = [each for lane in (1, 2) for each in served.ranks(lane)]
    used = [sum(each.cpu_times()[:2]) for each in ranks]
    time.sleep(1.5)
    # In turns, a worker would sleep half of the time and more.
    assert all(sum(each.cpu_times()[:2]) > before for each, before in zip(ranks, used))
    assert lanes == {0, 1}


@needs("starlette", "uvicorn")
def test_a_pause_stops_all_clocks_and_sleeps(served, race):
    assert served.post("pause", {"race": race}) == (200, {"state": "paused"})
    time.sleep(0.5)  # the turn that was under way
    before = served.race()
    ranks = served.ranks(lane=1) + served.ranks(lane=2)
    assert len(ranks) == 3
    used = sum(sum(each.cpu_times()[:2]) for each in ranks)
    time.sleep(1)
    assert sum(sum(each.cpu_times()[:2]) for each in ranks) - used < 0.3
    after = served.race()
    assert after["state"] == "paused"
    assert [lane["seconds"] for lane in before["lanes"]] == [
        lane["seconds"] for lane in after["lanes"]
    ]
    assert served.post("go_on", {"race": race}) == (200, {"state": "racing"})
    served_again = next(told for kind, told in served.watch() if kind == "turn")
    assert served_again["seconds"] > after["lanes"][served_again["lane"]]["seconds"]


@needs("starlette", "uvicorn")
@pytest.mark.parametrize(
    ("signal_number", "reason"),
    [(signal.SIGKILL, "has died"), (signal.SIGSTOP, "is stopped")],
    ids=["dies", "hangs"],
)
def test_a_rank_that_fails_ends_its_lane_and_no_other(served, race, signal_number, reason):
    ranks = served.ranks(lane=2)
    victim = max(ranks, key=lambda each: each.pid)
    os.kill(victim.pid, signal_number)
    lanes = served.wait(lambda race: race["lanes"][1]["state"] == "failed" and race["lanes"])
    assert f"(process {victim.pid}) {reason}" in lanes[1]["reason"]
    assert within(5, lambda: not any(each.is_running() for each in ranks))
    before = lanes[0]["seconds"]
    turns = (told for kind, told in served.watch() if kind == "turn")
    assert any(told["lane"] == 0 and told["seconds"] > before + 0.3 for told in turns)


@needs("starlette", "uvicorn")
def test_a_browser_that_comes_late_sees_what_was(served, race):
    first = served.watch()
    kind, early = next(first)
    points = [lane["points"] for lane in early["lanes"]]
    while min(map(len, points)) < 5:
        kind, told = next(first)
        if kind == "turn":
            points[told["lane"]].append(told["point"])
    late = [lane["points"] for lane in served.race()["lanes"]]
    first.close()
    for seen, told in zip(points, late):
        assert told[: len(seen)] == seen
        assert all(a[0] < b[0] for a, b in pairwise(told))


@needs("starlette", "uvicorn")
def test_a_drawing_is_read_while_a_race_runs(served, race):
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        status, said = served.post("read", {"race": race, "strokes": DRAWN["7"]})
        took.append(time.perf_counter() - begin)
        assert status == 200, said
    assert np.shape(said["picture"]) == (1, 28, 28)
    for probabilities in said["lanes"]:
        np.testing.assert_allclose(sum(probabilities), 1)
    assert np.quantile(took, 0.25) < 0.05  # others use the machine, too
    status, said = served.post("example", {"race": race})
    assert status == 200
    assert said["label"] in "0123456789"


@needs("starlette", "uvicorn")
def test_a_picture_is_added_in_every_lane_from_the_same_epoch_on(served):
    number = start(served, RACE | {"epochs": 12})
    served.wait(lambda race: race["state"] == "racing")
    lesson = {"race": number, "strokes": DRAWN["7"], "label": "7"}
    status, said = served.post("teach", lesson)
    assert status == 200
    assert said["epoch"] is not None
    race = served.wait(over)
    samples = [lane["samples"] for lane in race["lanes"]]
    assert samples == [24_000 + 20 * (12 - said["epoch"] + 1)] * 2
    assert 0 < race["differences"][0]["largest"] < 1e-9
    assert served.post("teach", lesson)[1] == {"epoch": None}
    next_race = start(served, RACE | {"epochs": 1})
    race = served.wait(lambda race: race["number"] == next_race and over(race))
    assert [lane["samples"] for lane in race["lanes"]] == [2_000 + 2 * 20] * 2


@needs("starlette", "uvicorn")
def test_bad_posts_are_refused_and_change_nothing(served, race):
    before = served.race()
    posts = {
        "start": LONG,
        "pause": {"race": race},
        "stop": {"race": race},
        "read": {"race": race, "strokes": DRAWN["7"]},
        "teach": {"race": race, "strokes": DRAWN["7"], "label": "7"},
    }
    for path, keys in posts.items():
        assert served.post(path, keys, Host="evil.example")[0] == 421
        assert served.post(path, keys, Origin="http://evil.example")[0] == 403
        assert served.post(path, keys, Origin="null")[0] == 403
        assert served.post(path, keys, Content_Type="text/plain")[0] == 415
        assert served.post(path, "x" * 10_000_000)[0] == 413
        assert served.ask("POST", path, b"{")[0] == 422
        assert served.ask("POST", path, b"[" * 100_000)[0] == 422
        assert served.post(path, [1])[0] == 422
        assert served.post(path, keys | {"more": 1})[0] == 422
        assert served.ask("GET", path)[0] == 405
        time.sleep(0.3)  # fewer than are allowed in a second
    assert served.post("start", LONG)[0] == 409
    for path in ("pause", "go_on", "stop", "example"):
        assert served.post(path, {"race": race + 1})[0] == 404
        assert served.post(path, {"race": str(race)})[0] == 422
    for strokes in ([], [[]], [[[0.5]]], [[[0.5, 2]]], [[["nan", 0]]], [[[0, 0]] * 5000], "7"):
        assert served.post("read", {"race": race, "strokes": strokes})[0] == 422
    assert served.post("teach", posts["teach"] | {"label": "x"})[0] == 422
    assert served.ask("GET", "page/../app.py")[0] == 404
    assert served.ask("GET", "page/%2e%2e/app.py")[0] == 404
    assert served.ask("DELETE", "")[0] in (403, 405)
    after = served.race()
    assert after["number"] == before["number"] == race
    assert after["state"] == "racing"
    assert after["lessons"] == before["lessons"]
    assert after["settings"] == before["settings"]


@needs("starlette", "uvicorn")
def test_too_many_posts_are_refused(served):
    found = [served.post("pause", {"race": 0})[0] for _ in range(150)]
    assert found[0] == 404
    assert found.count(429) > 10
    time.sleep(2)
    assert served.post("pause", {"race": 0})[0] == 404


@needs("starlette", "uvicorn")
def test_a_lane_that_a_strategy_refuses_says_why(served):
    refused = PARALLEL | {"strategy": "Hybrid-data-pipeline"}
    start(served, RACE | {"epochs": 1, "lanes": [SEQUENTIAL, refused]})
    race = served.wait(over)
    assert [lane["state"] for lane in race["lanes"]] == ["finished", "failed"]
    assert "Hybrid-data-pipeline needs 4 ranks, and there are 2" in race["lanes"][1]["reason"]


@needs("starlette", "uvicorn")
def test_a_race_without_browsers_ends_and_leaves_nothing_running(tmp_path):
    with serving(tmp_path, "--idle", "1") as served:
        start(served, LONG)
        served.wait(lambda race: race["state"] == "racing")
        assert len(served.family()) > 3
        assert within(8, lambda: len(served.family()) == 1)
        race = served.race()
        assert (race["state"], race["reason"]) == ("stopped", "nobody watched for 1 s")


@needs("starlette", "uvicorn")
def test_with_a_host_only_the_whole_address_is_answered(tmp_path):
    with serving(tmp_path, "--host", "127.0.0.1") as served:
        token = served.address.rstrip("/").rpartition("/")[2]
        assert len(token) >= 20
        assert served.ask("GET", "choices")[0] == 200
        assert served.post("pause", {"race": 1})[0] == 404
        served.address = served.address.replace(token, token[:-1] + "x")
        assert served.ask("GET", "choices") == (
            404,
            {"error": "open the whole address that the demo has printed"},
        )
        served.address = served.address.rpartition("/")[0].rpartition("/")[0] + "/"
        assert served.ask("GET", "choices")[0] == 404
        assert served.ask("GET", "")[0] == 404


@needs("starlette", "uvicorn")
def test_ranks_end_when_the_server_is_killed(tmp_path):
    with starting(tmp_path) as served:
        start(served, LONG)
        served.wait(lambda race: race["state"] == "racing")
        family = served.family()[1:]
        assert len(family) >= 3
        served.process.kill()
        _, left = psutil.wait_procs(family, 5)
        assert not left
