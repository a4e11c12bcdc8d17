"""Studies measure no strategy that is wrong where shards are uneven, however slightly."""

import pytest

from bench.core.check import WrongTraining
from bench.core.race import measure
from bench.studies import which_strategy
from bench.studies.model_parallel import Setting
from strategies.catalog import Entry, added
from tests.examples.mean_of_means import MeanOfMeans


@pytest.mark.workers(2)
def test_what_it_costs_to_spread_a_net(comm):
    with added(Entry("Wrong", MeanOfMeans)), pytest.raises(WrongTraining, match="differ from"):
        measure(Setting("Wrong", batch_size=256, depth=2, width=32).case(), comm)


@pytest.mark.workers(2)
def test_which_strategy_is_fastest(comm):
    with added(Entry("Wrong", MeanOfMeans, uses=("race",))), pytest.raises(SystemExit) as raised:
        which_strategy.errors([784, 8, 10], comm)
    assert str(raised.value).startswith("Wrong on [784, 8, 10]: after 3 steps the weights differ")
