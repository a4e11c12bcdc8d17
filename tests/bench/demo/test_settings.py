"""What a browser asks for is a race, or refused in a sentence that says what was expected."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from bench.demo.settings import most_workers, race_settings, strategies
from bench.demo.sources import sources
from strategies.catalog import CATALOG
from tests.bench.demo.serving import RACE

pytestmark = pytest.mark.workers(1)

SOURCES = sources()
LETTERS = {"letters-printed": replace(SOURCES["letters-printed"], missing="")}


def changed(lane: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    race = copy.deepcopy(RACE) | keys
    if lane:
        race["lanes"][0] |= lane
    return race


def test_a_race_is_taken_as_it_was_asked_for():
    race = race_settings(RACE, SOURCES)
    assert race.lanes[1].strategy == "DataParallel"
    assert (race.epochs, race.target, race.together) == (3, 0.6, False)


def test_every_strategy_that_can_be_raced_is_in_the_catalog():
    assert set(strategies()) <= set(CATALOG)
    assert {"Sequential", "SharedDataParallel", "Hogwild", "Pipeline-4"} <= set(strategies())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], "expected an object"),
        ({}, "missing"),
        (changed(epochs="3"), "epochs: expected int, not '3'"),
        (changed(epochs=True), "epochs: expected int"),
        (changed(epochs=0), "epochs=0: expected from 1"),
        (changed(epochs=10**9), "expected from 1 to"),
        (changed(target="nan"), "target=nan: expected from 0.01 to 1"),
        (changed(target=1.1), "target=1.1"),
        (changed(together=1), "together: expected bool"),
        (changed(dtype="float16"), "dtype='float16': expected one of float32, float64"),
        (changed(data="/etc/passwd"), "data='/etc/passwd': expected one of digits"),
        (changed(lanes=[]), "the number of lanes=0: expected from 2 to 4"),
        (changed(lanes=RACE["lanes"] * 3), "the number of lanes=6"),
        (changed(lanes=[1, 2]), "lanes: expected an object"),
        (changed(more=1), "'more': no such key"),
        (changed({"more": 1}), "lane 1: 'more': no such key"),
        (changed({"net": "vgg"}), "lane 1: net='vgg': expected one of mlp"),
        (
            changed({"strategy": "Fastest"}),
            "lane 1: strategy='Fastest': expected one of Sequential",
        ),
        (changed({"workers": 2}), "Sequential is plain training in one process"),
        (changed({"workers": most_workers() + 1, "strategy": "ZeRO-1"}), "workers="),
        (changed({"batch_size": 0}), "batch_size=0: expected from 1 to 8192"),
        (changed({"learning_rate": 0}), "learning_rate=0"),
        (changed({"learning_rate": "inf"}), "learning_rate=inf"),
    ],
)
def test_what_is_no_race_is_refused(keys, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        race_settings(keys, SOURCES)


def test_a_net_that_does_not_take_the_pictures_is_refused():
    with pytest.raises(ValueError, match="lane 1: lenet needs pictures of at least 12x12"):
        race_settings(changed({"net": "lenet"}, data="letters-printed"), LETTERS)
