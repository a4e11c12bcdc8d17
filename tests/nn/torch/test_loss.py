"""Losses of torch in uneven and empty parts add up to what torch computes of the whole batch."""

import copy
import functools
import inspect
import warnings
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn as tnn
from torch.nn import functional

from nn import SGD
from nn.batch import Batch
from nn.loss import CrossEntropy, Loss
from nn.torch.function_loss import FunctionLoss
from nn.torch.loss import MODULES, PICK_CLASSES, TorchLoss, as_loss
from nn.torch.model import TorchModel
from strategies import Sequential

torch.set_num_threads(1)
pytestmark = pytest.mark.workers(1)

ROWS, CLASSES = 11, 4
PARTS = (0, 3, 3, 4, 9, 11)
"""Where rows are cut. One part is empty, and one of targets that `holed` takes out."""

REFUSED = {
    # They have parameters.
    "AdaptiveLogSoftmaxWithLoss",
    "LinearCrossEntropyLoss",
    # They take other arguments than outputs and targets.
    "CTCLoss",
    "CosineEmbeddingLoss",
    "GaussianNLLLoss",
    "MarginRankingLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
}
OTHER_FUNCTIONS = {
    "cosine_embedding_loss",
    "ctc_loss",
    "gaussian_nll_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
}

CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.25, 0.1])
PER_CLASS = torch.tensor([0.3, 1.0, 2.5, 0.7])

rng = np.random.default_rng(5)
RAW = rng.standard_normal((ROWS, CLASSES))
LOGS = np.log(np.exp(RAW) / np.exp(RAW).sum(axis=1, keepdims=True))
CHANCES = 1 / (1 + np.exp(-RAW))
IMAGES = rng.standard_normal((ROWS, CLASSES, 2, 3))
TOKENS = rng.standard_normal((ROWS * 5, CLASSES))
FLOATS = rng.standard_normal((ROWS, CLASSES))
SHARES = rng.dirichlet(np.ones(CLASSES), ROWS)
SEVERAL = rng.integers(0, 2, (ROWS, CLASSES))
SIGNS = 2 * SEVERAL - 1
LABELS, PIXELS, WORDS = (
    rng.integers(0, CLASSES, shape) for shape in (ROWS, (ROWS, 2, 3), (ROWS, 5))
)
NAMES = np.array([[2, 0, -1, 1], [1, -1, 0, 0], [0, 1, 2, 3]])[np.arange(ROWS) % 3]


def holed(labels, ignored=-100):
    """Labels of which the first of each row from the second on, and all of rows 4 to 8, are not."""
    labels = labels.copy()
    labels.reshape(ROWS, -1)[2:, 0] = ignored
    labels[4:9] = ignored
    return labels


CASES: dict[str, list[tuple]] = {
    "BCELoss": [(tnn.BCELoss(), CHANCES, SHARES), (tnn.BCELoss(PER_CLASS), CHANCES, SEVERAL)],
    "BCEWithLogitsLoss": [
        (tnn.BCEWithLogitsLoss(), RAW, SEVERAL),
        (tnn.BCEWithLogitsLoss(), RAW[:, :1], SEVERAL[:, :1] > 0),
        (tnn.BCEWithLogitsLoss(), RAW[:, 0], SEVERAL[:, 0] > 0),
        (tnn.BCEWithLogitsLoss(PER_CLASS, pos_weight=CLASS_WEIGHTS), RAW, SHARES),
    ],
    "CrossEntropyLoss": [
        (tnn.CrossEntropyLoss(), RAW, LABELS),
        (tnn.CrossEntropyLoss(), RAW, holed(LABELS)),
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS), RAW, holed(LABELS)),
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.2), RAW, holed(LABELS)),
        (tnn.CrossEntropyLoss(ignore_index=0), RAW, holed(LABELS, 0)),
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS), IMAGES, holed(PIXELS)),
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS), TOKENS, holed(WORDS)),
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.1), RAW, SHARES),
        (tnn.CrossEntropyLoss(), IMAGES, np.exp(-IMAGES)),
        (tnn.CrossEntropyLoss(), TOKENS, np.exp(-TOKENS).reshape(ROWS, 5, CLASSES)),
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS, reduction="sum"), RAW, holed(LABELS)),
    ],
    "HingeEmbeddingLoss": [(tnn.HingeEmbeddingLoss(), RAW, SIGNS)],
    "HuberLoss": [(tnn.HuberLoss(delta=0.5), RAW, FLOATS)],
    "KLDivLoss": [
        (tnn.KLDivLoss(), LOGS, SHARES),
        (tnn.KLDivLoss(reduction="batchmean"), LOGS, SHARES),
        (tnn.KLDivLoss(reduction="sum", log_target=True), LOGS, np.log(SHARES)),
    ],
    "L1Loss": [(tnn.L1Loss(), RAW, FLOATS)],
    "MSELoss": [
        (tnn.MSELoss(), RAW, FLOATS),
        (tnn.MSELoss(), IMAGES, IMAGES**2),
        (tnn.MSELoss(), RAW, SIGNS),
        (tnn.MSELoss(), TOKENS, np.sin(TOKENS).reshape(ROWS, 5, CLASSES)),
        (tnn.MSELoss(reduction="sum"), RAW, FLOATS),
    ],
    "MultiLabelMarginLoss": [(tnn.MultiLabelMarginLoss(), RAW, NAMES)],
    "MultiLabelSoftMarginLoss": [(tnn.MultiLabelSoftMarginLoss(PER_CLASS), RAW, SEVERAL)],
    "MultiMarginLoss": [
        (tnn.MultiMarginLoss(p=2, margin=0.7, weight=CLASS_WEIGHTS), RAW, LABELS),
        (tnn.MultiMarginLoss(), TOKENS, WORDS),
    ],
    "NLLLoss": [
        (tnn.NLLLoss(CLASS_WEIGHTS), LOGS, holed(LABELS)),
        (tnn.NLLLoss(ignore_index=3), IMAGES, holed(PIXELS, 3)),
    ],
    "PoissonNLLLoss": [(tnn.PoissonNLLLoss(full=True), RAW, 5 * SHARES)],
    "SmoothL1Loss": [(tnn.SmoothL1Loss(beta=0.3), RAW, FLOATS)],
    "SoftMarginLoss": [(tnn.SoftMarginLoss(), RAW, SIGNS)],
}


def plain(module, outputs, targets):
    """The loss of the whole batch and its gradient, as a user's loop with torch has them."""
    x = torch.tensor(outputs, requires_grad=True)
    y = torch.tensor(np.ascontiguousarray(targets))
    if type(module).__name__ in CASES and not isinstance(module, PICK_CLASSES):
        y = y.double()
    if len(x) != len(y):
        y = y.flatten(0, 1)
    if isinstance(module, tnn.Module):
        module = copy.deepcopy(module).double()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "reduction: 'mean' divides")  # KLDivLoss
        loss = module(x, y)
    loss.backward()
    return loss.item(), x.grad.numpy()


def parts(loss, outputs, targets, weights=None, cuts=PARTS):
    """The losses of the parts of a batch, added up, and their gradients, joined."""
    count = loss.count(targets, weights)
    each = len(outputs) // len(targets)
    found = [
        loss(
            outputs[lo * each : hi * each],
            targets[lo:hi],
            count,
            None if weights is None else weights[lo:hi],
        )
        for lo, hi in pairwise(cuts)
    ]
    return sum(value for value, _ in found), np.concatenate([gradient for _, gradient in found])


def assert_equal(found, wanted, tolerance=1e-12):
    np.testing.assert_allclose(found[0], wanted[0], rtol=tolerance)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=tolerance)
    assert np.abs(wanted[1]).max() > 1e-3


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case[0])) for cases in CASES.values() for case in cases]
)
def test_parts_add_up_to_torch(case):
    module, outputs, targets = case
    assert_equal(parts(as_loss(module), outputs, targets), plain(module, outputs, targets))


def losses_of_torch():
    return {name for name in dir(tnn) if name.endswith("Loss")}


def test_every_loss_of_torch_is_proven_or_refused():
    assert losses_of_torch() == CASES.keys() | REFUSED
    functions = {
        name
        for name, function in vars(functional).items()
        if inspect.isfunction(function)
        and "reduction" in inspect.signature(function).parameters
        and not name.startswith("_")
    }
    assert functions == {function.__name__ for function in MODULES} | OTHER_FUNCTIONS
    assert {module.__name__ for module in MODULES.values()} == CASES.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_losses_of_other_arguments_are_refused(name):
    needed = {
        "AdaptiveLogSoftmaxWithLoss": (4, 9, [3]),
        "LinearCrossEntropyLoss": (4, 9),
    }
    with pytest.raises(ValueError, match=r"has parameters|expected a function of \(outputs"):
        as_loss(getattr(tnn, name)(*needed.get(name, ())))


@pytest.mark.parametrize("name", sorted(CASES))
def test_functions_are_the_modules_of_their_name(name):
    function = next(f for f, module in MODULES.items() if module.__name__ == name)
    module, outputs, targets = CASES[name][0]
    found = parts(as_loss(function), outputs, targets)
    if name in ("HuberLoss", "SmoothL1Loss", "PoissonNLLLoss", "MultiMarginLoss", "NLLLoss"):
        module = getattr(tnn, name)()  # of which the first case has settings
    elif name == "MultiLabelSoftMarginLoss":
        module = tnn.MultiLabelSoftMarginLoss()
    assert_equal(found, plain(module, outputs, targets))


@pytest.mark.parametrize(
    ("function", "settings", "case"),
    [
        (functional.cross_entropy, {"ignore_index": 1, "weight": CLASS_WEIGHTS}, (RAW, LABELS)),
        (functional.nll_loss, {"ignore_index": 2}, (LOGS, LABELS)),
        (functional.binary_cross_entropy, {"weight": PER_CLASS}, (CHANCES, SHARES)),
        (functional.kl_div, {"reduction": "batchmean"}, (LOGS, SHARES)),
        (functional.mse_loss, {"reduction": "sum"}, (RAW, FLOATS)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_settings_of_a_partial_are_kept(function, settings, case):
    converted = {
        name: value.double() if isinstance(value, torch.Tensor) else value
        for name, value in settings.items()
    }
    loss = as_loss(functools.partial(function, **settings))
    assert isinstance(loss, TorchLoss)
    assert_equal(parts(loss, *case), plain(functools.partial(function, **converted), *case))


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        (tnn.MSELoss(), RAW[:, :1], FLOATS[:, 0], "expects a target for each output"),
        (tnn.MSELoss(), RAW[:4], FLOATS[:4, 0], "expects a target for each output"),
        (tnn.MSELoss(), RAW.astype(np.float32), SEVERAL + 2**24, "float32 cannot hold"),
        (tnn.CrossEntropyLoss(), RAW, LABELS + 1, "out of bounds"),
        (tnn.CrossEntropyLoss(), RAW, RAW[:, 0], "CrossEntropyLoss.. of outputs"),
        (tnn.CrossEntropyLoss(), RAW[:, 0], SHARES[:, 0], "expected one or more for each row"),
        (tnn.BCELoss(torch.rand(ROWS, 1)), CHANCES, SHARES, "the same for every row"),
        (tnn.BCEWithLogitsLoss(pos_weight=torch.rand(ROWS)), RAW[:, 0], SHARES[:, 0], "the same"),
        (tnn.NLLLoss(), LOGS, SHARES, "NLLLoss.. of outputs"),
        (tnn.CrossEntropyLoss(), RAW, LABELS.astype(np.uint64) + 2**63, "int64 can hold"),
    ],
)
def test_what_does_not_fit_is_refused(loss, outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        as_loss(loss)(outputs, targets, 5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (tnn.MSELoss, TypeError, "expected a loss of torch.nn"),
        ("mse", TypeError, "expected a loss of torch.nn"),
        (tnn.MSELoss(reduction="none"), ValueError, "reduction='none'"),
        (tnn.Linear(3, 3), ValueError, "has parameters"),
        (lambda outputs: outputs.sum(), ValueError, r"expected a function of \(outputs"),
        (functools.partial(functional.mse_loss, torch.ones(3)), ValueError, "by name"),
        (
            functools.partial(functional.huber_loss, weight=1),  # type: ignore[call-arg]
            ValueError,
            "settings of torch.nn.HuberLoss",
        ),
    ],
)
def test_what_is_no_loss_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        as_loss(given)


def test_none_and_losses_stay():
    ours = CrossEntropy(ignore_index=3)
    assert as_loss(ours) is ours
    assert type(as_loss(None)) is CrossEntropy
    assert isinstance(as_loss(tnn.MSELoss()), Loss)


@given(
    st.lists(st.integers(0, CLASSES), min_size=1, max_size=12),
    st.sampled_from([-100, 0, 2]),
    st.sampled_from([None, CLASS_WEIGHTS]),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.lists(st.integers(0, 12), max_size=3),
    st.booleans(),
)
def test_cross_entropy_of_any_valid_targets(labels, ignored, class_weights, smoothing, cuts, rows):
    targets = np.array([ignored if label == CLASSES else label for label in labels])
    outputs, n = RAW.repeat(2, axis=0)[: len(targets)], len(targets)
    weights = np.linspace(0, 2, n) if rows else None
    module = tnn.CrossEntropyLoss(class_weights, ignore_index=ignored, label_smoothing=smoothing)
    loss = as_loss(module)
    found = parts(loss, outputs, targets, weights, sorted({0, n, *(cut % n for cut in cuts)}))
    ours = CrossEntropy(smoothing, class_weights, ignored)
    count = ours.count(targets, weights)
    assert loss.count(targets, weights) == count
    if not count:
        assert found[0] == 0
        assert not found[1].any()
        return
    wanted = ours(outputs, targets, count, weights)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-14)
    if not rows:
        wanted = plain(module, outputs, targets)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-14)


@pytest.mark.parametrize("shape", [(0, CLASSES), (0, CLASSES, 2, 3)])
@pytest.mark.parametrize("given", [tnn.CrossEntropyLoss(), tnn.MSELoss(), lambda x, y: x.mean()])
def test_no_rows_have_no_loss(given, shape):
    loss, gradient = as_loss(given)(np.zeros(shape), np.zeros(shape, int), 7)
    assert loss == 0
    assert gradient.shape == shape


WEIGHTS = np.linspace(0.1, 3, ROWS)


@pytest.mark.parametrize(
    ("given", "outputs", "targets"),
    [
        (tnn.MSELoss(), IMAGES, IMAGES**2),
        (tnn.MSELoss(), TOKENS, np.sin(TOKENS).reshape(ROWS, 5, CLASSES)),
        (tnn.MultiMarginLoss(), RAW, LABELS),
        (lambda x, y: (x - y) ** 2, RAW, FLOATS),
        (lambda x, y: functional.cross_entropy(x, y, reduction="none"), IMAGES, PIXELS),
    ],
)
def test_weights_of_rows(given, outputs, targets):
    def weighted(x, y):
        function = copy.copy(given)
        if isinstance(function, tnn.Module):
            function.reduction = "none"
        each = function(x, y).reshape(ROWS, -1).mean(dim=1)
        return (each * torch.tensor(WEIGHTS)).sum() / WEIGHTS.sum()

    assert_equal(
        parts(as_loss(given), outputs, targets, WEIGHTS), plain(weighted, outputs, targets)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_of_all_kinds_are_taken_and_left_alone(dtype):
    outputs = np.asfortranarray(RAW.astype(dtype))[::-1]
    targets = FLOATS[::-1, ::-1]
    outputs.setflags(write=False)
    targets.setflags(write=False)
    kept = outputs.copy(), targets.copy()
    for loss in (tnn.MSELoss(), lambda x, y: (x - y.mul_(1)).square().mean()):
        value, gradient = as_loss(loss)(outputs, targets, ROWS)
        assert gradient.dtype == dtype
        assert gradient.flags.writeable
        assert value == pytest.approx(((RAW[::-1] - targets) ** 2).mean(), rel=1e-6)
    np.testing.assert_array_equal(outputs, kept[0])
    np.testing.assert_array_equal(targets, kept[1])


# Functions of a user's own


def per_row(x, y):
    return functional.cross_entropy(x, y, reduction="none")


def focal(x, y):
    right = functional.log_softmax(x, dim=1).gather(1, y[:, None])[:, 0]
    return -((1 - right.exp()) ** 2 * right)


class Focal(tnn.Module):
    """A mean over rows, with a constant in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("power", torch.tensor(2.0))

    def forward(self, x, y):
        right = functional.log_softmax(x, dim=1).gather(1, y[:, None])[:, 0]
        return -((1 - right.exp()) ** self.power * right).mean()


class Doubled(tnn.MSELoss):
    """A subclass that does not do what its base class does."""

    def forward(self, x, y):
        return 2 * super().forward(x, y)


@pytest.mark.parametrize(
    ("function", "whole", "outputs", "targets"),
    [
        (per_row, lambda x, y: per_row(x, y).mean(), RAW, LABELS),
        (per_row, lambda x, y: per_row(x, y).mean(), IMAGES, PIXELS),
        (per_row, lambda x, y: per_row(x, y).mean(), TOKENS, WORDS),
        (focal, lambda x, y: focal(x, y).mean(), RAW, LABELS),
        (lambda x, y: focal(x, y).mean(), None, RAW, LABELS),
        (lambda x, y: focal(x, y).sum(), None, RAW, LABELS),
        (lambda x, y: functional.cross_entropy(x, y), None, TOKENS, WORDS),
        (lambda x, y: (x - y).abs().mean() + 3, None, RAW, FLOATS),
        (lambda x, y: (x[y] ** 2).sum(), None, RAW, SEVERAL > 0),
        (Focal(), None, RAW, LABELS),
        (Doubled(), None, RAW, FLOATS),
    ],
)
def test_functions_add_up_to_torch(function, whole, outputs, targets):
    wanted = plain(whole or function, outputs, targets)
    for cuts in (PARTS, range(ROWS + 1)):  # each row alone, too
        loss = as_loss(function)
        assert isinstance(loss, FunctionLoss)
        assert_equal(parts(loss, outputs, targets, cuts=cuts), wanted)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: functional.cross_entropy(x, y, CLASS_WEIGHTS.to(x.dtype)),  # labels weigh
        lambda x, y: functional.cross_entropy(x, y).sqrt(),  # no sum
        lambda x, y: (x @ x.T).softmax(dim=1).diagonal().log(),  # rows meet
        lambda x, y: (per_row(x, y) - per_row(x, y).mean()) ** 2,
        lambda x, y: per_row(x, y).max(),
        lambda x, y: per_row(x, y) + x.detach().var(dim=0, correction=0).sum(),  # a value alone
        lambda x, y: per_row(x, y) * len(y) / CLASS_WEIGHTS[y].sum(),  # weights of the batch
        lambda x, y: per_row(x, y).mean() * torch.rand(()),
        lambda x, y: per_row(x, y)[:2],
        lambda x, y: functional.cross_entropy(x, y).item(),
        lambda x, y: per_row(x, y).sum() + 1,  # 1 for each part
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_that_parts_do_not_add_up_to_are_refused(function, dtype):
    with pytest.raises(ValueError, match=r"expected|return one number for each row"):
        as_loss(function)(RAW.astype(dtype), LABELS, ROWS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 2, 40, 5000])
def test_one_label_that_does_not_count_is_found_however_many_do(rows, dtype):
    """Also if the number of labels that count is the same in each half of the rows."""
    loss = as_loss(lambda x, y: functional.cross_entropy(x, y))
    many = np.random.default_rng(3)
    outputs = many.standard_normal((rows, CLASSES)).astype(dtype)
    labels = many.integers(0, CLASSES, rows)
    loss(outputs, labels, rows)  # not yet
    labels[rows // 2] = -100
    with pytest.raises(ValueError, match="ignore_index and weights are known"):
        loss(outputs, labels, rows)


@pytest.mark.parametrize("label", [0, 1, 3])
def test_a_rank_of_one_class_finds_that_classes_weigh_differently(label):
    """Among its own rows, all of one weight, the function is a plain mean."""
    weights = torch.tensor([0.5, 1.0, 0.5, 0.5])
    loss = as_loss(lambda x, y: functional.cross_entropy(x, y, weights.double()))
    labels = np.full(ROWS, label)
    if label == 1:
        loss(RAW, labels, ROWS)
        return
    with pytest.raises(ValueError, match="depends on its target"):
        loss(RAW, labels, ROWS)


def test_labels_missed_by_every_second_row_are_found():
    """Both halves then have as many labels that count, so that halves add up."""
    loss = as_loss(lambda x, y: functional.cross_entropy(x, y))
    labels = LABELS.copy()
    labels[::2] = -100
    with pytest.raises(ValueError, match="ignore_index"):
        loss(RAW, labels, ROWS)


def test_rows_with_one_number_cannot_be_weighted():
    with pytest.raises(ValueError, match="expected one number for each row"):
        as_loss(Focal())(RAW, LABELS, WEIGHTS.sum(), WEIGHTS)


def test_a_hinge_that_all_rows_satisfy_has_no_loss():
    loss = as_loss(lambda x, y: functional.relu(1 - x[:, 0]).mean())
    value, gradient = loss(np.full((3, 2), 5.0), np.zeros(3, int), 7)
    assert value == 0
    assert not gradient.any()


# In models


def linear(loss, dtype="float64", module=TorchModel):
    torch.manual_seed(2)
    return module([tnn.Linear(5, CLASSES)], dtype=dtype, loss=loss)


X = rng.standard_normal((ROWS, 5))


def trained(model, y, steps=4):
    strategy = Sequential(model, SGD(0.1))
    losses = [strategy.step(Batch(X, y)) for _ in range(steps)]
    return losses, strategy.weights()


@pytest.mark.parametrize(
    ("given", "y"),
    [
        (tnn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.1), holed(LABELS)),
        (tnn.BCEWithLogitsLoss(pos_weight=PER_CLASS), SEVERAL),
        (functional.mse_loss, FLOATS),
        (focal, LABELS),
    ],
)
def test_a_model_trains_as_a_loop_with_torch(given, y):
    model = linear(given)
    net = copy.deepcopy(model.module)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    x, target = torch.tensor(X), torch.tensor(y)
    if isinstance(given, tnn.BCEWithLogitsLoss):
        target = target.double()
    module = copy.deepcopy(given).double() if isinstance(given, tnn.Module) else given
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = module(net(x), target).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found, weights = trained(model, y)
    np.testing.assert_allclose(found, losses, rtol=1e-12)
    np.testing.assert_allclose(
        weights, torch.nn.utils.parameters_to_vector(net.parameters()).detach(), atol=1e-12
    )


@pytest.mark.parametrize(
    ("given", "y"), [(tnn.CrossEntropyLoss(CLASS_WEIGHTS), LABELS), (Focal(), LABELS)]
)
def test_copies_and_conversions_keep_the_loss(given, y):
    model = linear(given, "float32")
    wanted = trained(linear(given), y)
    for twin in (model.converted("float64"), copy.deepcopy(model.converted("float64"))):
        twin.params[:] = linear(None).params
        found = trained(twin, y)
        assert found[0] == wanted[0]
        np.testing.assert_array_equal(found[1], wanted[1])
    same = trained(copy.deepcopy(model), y)
    assert same[0] == trained(model, y)[0]


def test_a_wrong_loss_of_ones_own_is_called():
    """A model that computed cross-entropy in its place would pass every other comparison."""
    calls = []

    def wrong(x, y):
        calls.append(len(x))
        return 2 * functional.cross_entropy(x, y)

    model = copy.deepcopy(linear(wrong, "float32").converted("float64"))
    plain = linear(None)
    model.params[:] = plain.params
    found = Sequential(model, SGD(0.1)).step(Batch(X, LABELS))
    assert calls
    assert found == pytest.approx(2 * Sequential(plain, SGD(0.1)).step(Batch(X, LABELS)), rel=1e-12)


def test_the_counter_of_a_batch_is_read_by_shape_where_that_is_enough():
    unread = SimpleNamespace(shape=(ROWS, CLASSES), dtype=np.dtype(float), ndim=2)
    assert Batch(X, unread).count(as_loss(tnn.MSELoss())) == ROWS


def test_predictions_are_of_the_form_of_the_targets():
    assert as_loss(tnn.CrossEntropyLoss()).predict(IMAGES).shape == (ROWS, 2, 3)
    np.testing.assert_array_equal(as_loss(tnn.BCELoss()).predict(CHANCES), RAW > 0)
    np.testing.assert_array_equal(as_loss(tnn.BCEWithLogitsLoss()).predict(RAW), RAW > 0)
    assert as_loss(tnn.MSELoss()).predict(RAW) is RAW
