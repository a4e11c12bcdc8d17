"""The loss: softmax cross-entropy."""

import numpy as np
from numpy.typing import NDArray


def cross_entropy(logits: NDArray, labels: NDArray, n: int) -> tuple[float, NDArray]:
    """Softmax cross-entropy, summed over the rows given and divided by the *global* count `n`.

    Because of this divisor the losses and gradients of shards add up to those of the whole batch,
    however uneven the shards are. Each row is shifted by its own maximum (log-sum-exp; Goodfellow,
    Bengio, Courville, "Deep Learning", 4.1), so one large row cannot flush the others to zero.

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
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype}: expected integers")
    if n < 1:
        raise ValueError(f"global row count {n}: expected at least 1")
    rows, classes = logits.shape
    # One pass checks both ends of the range: read as unsigned, a negative label is huge.
    if rows and labels.astype(np.int64, copy=False).view(np.uint64).max() >= classes:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}: the model has {classes} outputs, "
            f"expected labels from 0 to {classes - 1}"
        )
    # Classes along the first axis: reductions over few classes then run over contiguous rows.
    z = np.array(logits.T, order="C")
    z -= z.real.max(axis=0)
    each = np.arange(rows)
    right = z[labels, each]
    e = np.exp(z, out=z)
    total = e.sum(axis=0)
    loss = (np.log(total).sum() - right.sum()) / n
    e *= 1.0 / (n * total)
    e[labels, each] -= 1.0 / n
    return loss, e.T
