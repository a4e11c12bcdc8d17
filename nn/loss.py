"""Losses: a sum over the rows given, divided by a count over the *global* batch.

Because of this divisor the losses and gradients of shards, micro-batches and parts add up to those
of the whole batch, however uneven they are, and whichever of their targets count.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_float, as_int


class Loss(ABC):
    """The contract of all losses: `count` says what the mean divides by, a call gives the loss.

    A call returns the sum over the rows given, divided by `count`, and its gradient with respect
    to `outputs`, in the shape of `outputs`. If `count` is 0 (no target counts), both are 0.
    """

    counts_by_shape = True
    """Whether `count` depends on nothing but the shape of the targets, so that a rank knows the
    count of the global batch without reading the rows of other ranks."""

    is_sum = False
    """Whether the loss is a plain sum over rows, which ignores `count`."""

    @abstractmethod
    def count(self, targets: NDArray, weights: NDArray | None = None) -> float:
        """What the mean over these rows is divided by: how many of their targets count.

        Args:
            targets: (rows, ...), as in `Batch.y`.
            weights: (rows,), as in `Batch.weights`.
        """

    @abstractmethod
    def __call__(
        self, outputs: NDArray, targets: NDArray, count: float, weights: NDArray | None = None
    ) -> tuple[float, NDArray]:
        """Return the loss of rows, and its gradient with respect to `outputs`.

        Args:
            outputs: what the model made of the rows, float. Complex is allowed, for complex-step
                differentiation.
            targets: (rows, ...).
            count: `count` of the global batch.
            weights: (rows,), by which the losses of the rows are multiplied.

        Raises:
            ValueError: outputs and targets do not fit each other.
        """

    def check(self, targets: NDArray, outputs: int) -> None:  # noqa: B027 (any target is right)
        """Raise ValueError if a target is out of range for a model of so many outputs in a row."""

    def predict(self, outputs: NDArray) -> NDArray:
        """Turn outputs into what the model predicts, in the form of the targets."""
        return outputs


class CrossEntropy(Loss):
    """Softmax cross-entropy between logits and class numbers, as torch.nn.CrossEntropyLoss.

    Of a row with logits z, class y and weights w its loss is -w_y log p_y with p = softmax(z).
    Label smoothing s makes it -(1 - s) w_y log p_y - s / classes * sum_c w_c log p_c (Szegedy et
    al., "Rethinking the inception architecture", 2016, section 7). The mean divides the sum of
    the losses by the sum of the w_y. A row that is ignored has loss 0, and does not count.

    Outputs are (rows, classes), or (rows, classes, ...) with a class for each pixel. Targets are
    (rows,), or (rows, ...) for pixels. Of tokens, outputs may also be (rows * tokens, classes),
    and targets either (rows, tokens) or (rows * tokens,).

    Args:
        label_smoothing: s, from 0 to below 1.
        class_weights: w, (classes,), each 0 or more; by default 1.
        ignore_index: targets of this value do not count, e.g. -100 for padding.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | NDArray | None = None,
        ignore_index: int | None = None,
    ):
        self.label_smoothing = as_float("label_smoothing", label_smoothing, 0.0, 1.0)
        self.ignore_index = (
            None if ignore_index is None else as_int("ignore_index", ignore_index, -(2**63))
        )
        self.class_weights: NDArray | None = None
        if class_weights is not None:
            given = np.asarray(class_weights)
            if given.ndim != 1 or given.dtype.kind not in "iuf" or not (given >= 0).all():
                raise ValueError(
                    f"class_weights={class_weights!r:.80}: expected a vector of numbers of 0 or "
                    "more, one for each class"
                )
            self.class_weights = given.astype(np.float64)
        self.counts_by_shape = class_weights is None and ignore_index is None

    def count(self, targets, weights=None):
        if self.counts_by_shape and weights is None:
            return targets.size
        return float(self._weight_of(targets, weights).sum())

    def _weight_of(self, targets: NDArray, weights: NDArray | None) -> NDArray:
        """What each target weighs, float64 in the shape of the targets: 0 if it is ignored."""
        counts = np.ones(targets.shape)
        if self.ignore_index is not None:
            counts = (targets != self.ignore_index).astype(np.float64)
        if self.class_weights is not None:
            self.check(targets, len(self.class_weights))
            counts *= self.class_weights[np.where(counts, targets, 0).astype(np.intp)]
        if weights is not None:
            counts *= weights.reshape(-1, *[1] * (targets.ndim - 1))
        return counts

    def check(self, targets, outputs):
        if targets.dtype.kind not in "iu":
            raise ValueError(f"labels are {targets.dtype}: expected integers")
        if self.ignore_index is not None:
            targets = targets[targets != self.ignore_index]
        # One pass checks both ends of the range: read as unsigned, a negative label is huge.
        if targets.size and (targets.astype(np.int64, copy=False).view(np.uint64).max() >= outputs):
            ignored = "" if self.ignore_index is None else f", or {self.ignore_index}"
            raise ValueError(
                f"labels from {targets.min()} to {targets.max()}: the model has {outputs} outputs, "
                f"expected labels from 0 to {outputs - 1}{ignored}"
                + "; CrossEntropy(ignore_index=...) leaves one label out"
                * (not ignored)
            )

    def __call__(self, outputs, targets, count, weights=None):
        classes = outputs.shape[1] if outputs.ndim > 1 else 0
        logits = outputs if outputs.ndim == 2 else np.moveaxis(outputs, 1, -1)
        places = logits.shape[:-1]
        if outputs.ndim == 2 and targets.ndim == 2 and targets.size == len(outputs):
            places = targets.shape  # tokens
        if outputs.ndim < 2 or targets.shape != places:
            raise ValueError(
                f"logits of shape {outputs.shape} and labels of shape {targets.shape}: "
                "expected (rows, classes) and (rows,), or a label for each pixel or token"
            )
        if not count:
            return 0.0, np.zeros_like(outputs)
        logits, labels = logits.reshape(-1, classes), targets.ravel()
        if self.counts_by_shape and not self.label_smoothing and weights is None:
            loss, gradient = cross_entropy(logits, labels, count)
        else:
            of_each = self._weight_of(targets, weights).ravel()
            loss, gradient = self._weighted(logits, labels, of_each, count, weights)
        if outputs.ndim == 2:
            return loss, gradient
        gradient = gradient.reshape(*places, classes)
        return loss, np.ascontiguousarray(np.moveaxis(gradient, -1, 1))

    def _weighted(self, logits, labels, of_each, count, weights):
        """The loss with any of the settings; `of_each` is what each label weighs."""
        self.check(labels, logits.shape[1])
        rows, classes = logits.shape
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"{len(self.class_weights)} class_weights and {classes} outputs: expected one for "
                "each output"
            )
        real = logits.real.dtype
        counted = np.ones(rows, bool) if self.ignore_index is None else labels != self.ignore_index
        each, labels = np.arange(rows), np.where(counted, labels, 0).astype(np.intp)
        z = np.array(logits.T, order="C")
        z -= z.real.max(axis=0) if rows else 0
        total = np.exp(z).sum(axis=0)
        log_p = z - np.log(total)
        # The part of each class in the loss of each row, (classes, rows).
        part = np.zeros((classes, rows), real)
        part[labels, each] = (1 - self.label_smoothing) * of_each / count
        if self.label_smoothing:
            row = counted / (count * classes) * self.label_smoothing
            if weights is not None:
                row = row * np.repeat(weights, rows // max(len(weights), 1))
            ones = np.ones(classes) if self.class_weights is None else self.class_weights
            part += (ones[:, None] * row).astype(real)
        gradient = np.exp(log_p) * part.sum(axis=0) - part
        return -(part * log_p).sum(), gradient.T

    def predict(self, outputs):
        return outputs.argmax(axis=1)

    def __repr__(self) -> str:
        return (
            f"CrossEntropy(label_smoothing={self.label_smoothing}, "
            f"class_weights={self.class_weights}, ignore_index={self.ignore_index})"
        )


class _Elementwise(Loss):
    """Base class of losses with a target for each output, averaged over all of them."""

    def count(self, targets, weights=None):
        if weights is None:
            return targets.size
        return float(weights.sum()) * (targets.size // max(len(targets), 1))

    def __call__(self, outputs, targets, count, weights=None):
        if outputs.size != targets.size or len(outputs) != len(targets):
            raise ValueError(
                f"outputs of shape {outputs.shape} and targets of shape {targets.shape}: "
                "expected a target for each output"
            )
        if not count:
            return 0.0, np.zeros_like(outputs)
        losses, gradient = self._each(
            outputs, targets.reshape(outputs.shape).astype(outputs.real.dtype, copy=False)
        )
        if weights is not None:
            of_row = weights.reshape(-1, *[1] * (outputs.ndim - 1)).astype(outputs.real.dtype)
            losses, gradient = losses * of_row, gradient * of_row
        gradient /= count
        return losses.sum() / count, gradient

    @abstractmethod
    def _each(self, outputs: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
        """The loss of each output, and its derivative."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class MeanSquaredError(_Elementwise):
    """The mean of (output - target)^2 over all elements, as torch.nn.MSELoss.

    Outputs and targets are (rows, ...) of one size; a model of one output takes targets (rows,).
    """

    def _each(self, outputs, targets):
        difference = outputs - targets
        return difference * difference, 2 * difference


class BinaryCrossEntropy(_Elementwise):
    """Cross-entropy between logits and probabilities, as torch.nn.BCEWithLogitsLoss.

    Of a logit z and a target t from 0 to 1 it is log(1 + e^z) - t z, averaged over all elements:
    one for each label of a row that may have several.
    """

    def _each(self, outputs, targets):
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise ValueError(
                f"targets from {targets.min()} to {targets.max()}: expected from 0 to 1"
            )
        small = np.exp(-np.where(outputs.real > 0, outputs, -outputs))
        softplus = np.where(outputs.real > 0, outputs, 0) + np.log1p(small)
        sigmoid = np.where(outputs.real > 0, 1, small) / (1 + small)
        return softplus - targets * outputs, sigmoid - targets

    def predict(self, outputs):
        return (outputs > 0).astype(np.int64)


def cross_entropy(logits: NDArray, labels: NDArray, n: float) -> tuple[float, NDArray]:
    """Softmax cross-entropy, summed over the rows given and divided by the *global* count `n`.

    It is `CrossEntropy()` of single rows. Each row is shifted by its own maximum (log-sum-exp;
    Goodfellow, Bengio, Courville, "Deep Learning", 4.1), so one large row cannot flush the others
    to zero.

    Args:
        logits: (rows, classes), float; complex is allowed, for complex-step differentiation.
        labels: (rows,), integers from 0 to classes - 1.
        n: number of rows (for sequences, of labels) in the global batch; at least 1.

    Returns:
        The loss, and its gradient with respect to the logits, (rows, classes).

    Raises:
        ValueError: shapes do not match, labels are not integers or out of range, or n < 1.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape}: "
            "expected (rows, classes) and (rows,)"
        )
    if n < 1:
        raise ValueError(f"global row count {n}: expected at least 1")
    rows, classes = logits.shape
    CROSS_ENTROPY.check(labels, classes)
    # Classes along the first axis: reductions over few classes then run over contiguous rows.
    z = np.array(logits.T, order="C")
    z -= z.real.max(axis=0)
    at_labels = labels.astype(np.intp) * rows + np.arange(rows)  # faster than two indices
    right = z.take(at_labels)
    e = np.exp(z, out=z)
    total = e.sum(axis=0)
    loss = (np.log(total).sum() - right.sum()) / n
    e *= 1.0 / (n * total)
    e.ravel()[at_labels] -= 1.0 / n
    return loss, e.T


CROSS_ENTROPY = CrossEntropy()
"""The loss of a model that is given no other."""
