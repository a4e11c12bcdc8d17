"""scikit-learn's net takes steps that can be timed beside ours."""

import numpy as np
import pytest

from bench.peers import scikit_learn
from nn import Batch

pytestmark = pytest.mark.workers(1)


def test_a_step_is_one_update_by_all_rows_of_the_batch(monkeypatch):
    rows = []

    class Watched(scikit_learn.MLPClassifier):
        def _backprop(self, x, *rest, **named):
            rows.append(len(x))
            return super()._backprop(x, *rest, **named)

    monkeypatch.setattr(scikit_learn, "MLPClassifier", Watched)
    step = scikit_learn.partial_fit_step([3, 4, 2], 0.01)
    rng = np.random.default_rng(0)
    for n in (300, 7):  # by default scikit-learn cuts a batch into parts of 200 rows
        step(Batch(rng.standard_normal((n, 3)), rng.integers(0, 2, n)))
    assert rows == [300, 7]
