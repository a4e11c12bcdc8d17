"""What is drawn becomes a picture like those of the data set, wherever and however large it is."""

import numpy as np
import pytest

from bench.demo.sources import Scale
from bench.demo.strokes import Hand
from nn import data
from tests.bench.demo.drawing import DRAWN

pytestmark = pytest.mark.workers(1)

HAND = Hand(28, 28, 20.0, 18.0, (13.5, 12.5), 3.0, False)


def extent(ink: np.ndarray) -> tuple[int, int]:
    dark = ink > 0.5
    return int(np.ptp(np.flatnonzero(dark.any(1)))) + 1, int(
        np.ptp(np.flatnonzero(dark.any(0)))
    ) + 1


def centre(ink: np.ndarray) -> tuple[float, float]:
    return (
        float(ink.sum(1) @ np.arange(28) / ink.sum()),
        float(ink.sum(0) @ np.arange(28) / ink.sum()),
    )


def moved(strokes, scale, x, y):
    return [[[scale * p + x, scale * q + y] for p, q in stroke] for stroke in strokes]


def test_a_tall_drawing_has_the_height_and_the_centre_of_the_data_set():
    ink = HAND.picture(DRAWN["7"])
    assert abs(extent(ink)[0] - 20) <= 1
    np.testing.assert_allclose(centre(ink), HAND.centre, atol=0.05)


def test_a_wide_drawing_is_no_wider_than_the_widest():
    ink = HAND.picture([[[0.1, 0.5], [0.9, 0.55]]])
    assert abs(extent(ink)[1] - 18) <= 1


def test_place_and_size_on_the_pad_do_not_matter():
    for name in DRAWN:
        picture = HAND.picture(DRAWN[name])
        elsewhere = HAND.picture(moved(DRAWN[name], 0.4, 0.3, 0.1))
        np.testing.assert_allclose(picture, elsewhere, atol=0.2)
        assert picture.max() > 0.9


def test_the_pen_is_as_thick_as_it_should_be():
    ink = HAND.picture([[[0.5, 0.1], [0.5, 0.9]]])
    np.testing.assert_allclose(ink.sum(1)[8:20], HAND.pen, atol=0.05)


def test_a_dot_is_a_dot():
    assert extent(HAND.picture([[[0.9, 0.9]]])) in {(3, 3), (2, 2), (4, 4)}


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing is drawn"):
        HAND.picture([])
    with pytest.raises(ValueError, match="nothing is drawn"):
        HAND.picture([[]])


def test_a_centre_near_the_edge_does_not_cut_the_drawing():
    hand = Hand(28, 28, 26.0, 26.0, (4.0, 20.0), 3.0, False)
    ink = hand.picture(DRAWN["3"])
    assert extent(ink)[0] >= 25


def test_a_hand_is_found_from_pictures_that_it_has_drawn():
    pictures = np.array([HAND.picture(DRAWN[name]) for name in ("3", "7", "a")])
    hand = Hand.of(pictures)
    assert abs(hand.tall - HAND.tall) <= 1
    assert abs(hand.pen - HAND.pen) < 0.6
    np.testing.assert_allclose(hand.centre, HAND.centre, atol=0.1)
    assert not hand.binary


def test_a_scale_undoes_what_normalising_did():
    raw, normal = data.load("digits", 1000, normalise=False), data.load("digits", 1000)
    scale = Scale.of(raw.x, normal.x)
    np.testing.assert_allclose(scale.normal(raw.x / 255), normal.x, atol=1e-5)
    np.testing.assert_allclose(scale.ink(normal.x), raw.x / 255, atol=1e-5)
