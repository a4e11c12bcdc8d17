"""The topics of Python's language reference are rows of hashed words."""

import numpy as np
import pytest

from nn.data.sets import topics

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks


def test_rows_name_features_and_every_topic_occurs() -> None:
    data = topics.load()
    for x, y in ((data.x, data.y), (data.x_test, data.y_test)):
        assert x.shape == (len(y), 2 * topics.WINDOW - 1)
        assert x.dtype == np.float32
        assert (x == x.astype(int)).all()
        assert x.min() >= 0
        assert x.max() < topics.FEATURES
        assert set(y) == set(range(data.classes))
    assert len(data.x_test) == (len(data.x) + len(data.x_test)) // 7
    assert data.classes > 10
    assert len(np.unique(data.x[:, : topics.WINDOW])) > 1_000


def test_the_seed_chooses_the_test_rows() -> None:
    first, again, other = topics.load(), topics.load(), topics.load(seed=1)
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert not np.array_equal(first.x_test, other.x_test)
    rows = [np.sort(np.concatenate([d.x, d.x_test]).sum(axis=1)) for d in (first, other)]
    np.testing.assert_array_equal(rows[0], rows[1])
