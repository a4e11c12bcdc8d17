"""`Reference`: the user's own training loop, which says what "the same weights" means to them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.user_code import UserCodeError
from bench.user_code.conversion import kind_of
from bench.user_code.files import blamed, seeded
from nn import Batch
from nn.batch import map_arrays


@dataclass(frozen=True)
class Reference:
    """A training loop of the user's own.

    Attributes:
        given: where it came from, for messages.
        train: called with a list of batches, it returns the weights after a step on each. A batch
            is a pair (x, y), or (x, y, weights) if rows have weights: tensors for a model of torch,
            else arrays. Floats are float64; whole numbers keep their dtype.
    """

    given: str
    train: Callable[[list[Any]], Any]

    def weights(self, model: Any, batches: Sequence[Batch]) -> NDArray:
        """Run the loop, with the generators of numpy and torch seeded as where the model is made.

        Args:
            model: says by what names and in what order the weights are wanted, and whether batches
                are tensors.

        Returns:
            All trainable parameters in the order of `model.params`, float64.

        Raises:
            UserCodeError: the loop fails, or returns other weights than those of the model.
        """
        torch = sys.modules["torch"] if hasattr(model, "module") else None
        pairs = [_pair(batch, torch) for batch in batches]
        with blamed(f"{self.given} on {len(pairs)} batches"), seeded():
            found = self.train(pairs)
        if found is None:
            raise UserCodeError(f"{self.given} returned None; expected the weights it trained")
        return as_vector(found, model, self.given)


def _pair(batch: Batch, torch: Any) -> tuple[Any, ...]:
    def value(array: NDArray, name: str = "") -> Any:
        array = array.astype(np.float64 if array.dtype.kind == "f" else array.dtype)
        return torch.from_numpy(array) if torch else array

    x, y, weights = batch.x, batch.y, batch.weights
    several = isinstance(x, (tuple, dict))
    pair = map_arrays(value, x, "x") if several else value(x), value(y)
    return pair if weights is None else (*pair, value(weights))


def as_vector(found: Any, model: Any, given: str) -> NDArray:
    """Return the weights that a loop returned in the order of `model.params`, float64.

    Args:
        found: a module or model, a dict of tensors by name (such as a state_dict), a list of
            tensors in the order of the model's parameters, or one flat vector.

    Raises:
        UserCodeError: it is none of these, or a parameter is missing or has another size.
    """
    wanted = model.parameters
    torch = sys.modules.get("torch")
    if torch and isinstance(found, torch.nn.Module):
        found = found.state_dict()
    found = getattr(found, "params", found)
    if isinstance(found, Mapping):
        if missing := [one.name for one in wanted if one.name not in found]:
            raise UserCodeError(
                f"{given} returned no {', '.join(missing[:3])}; expected the parameters by the "
                f"model's names: {', '.join(one.name for one in wanted[:4])}, ..."
            )
        parts = [found[one.name] for one in wanted]
    elif isinstance(found, (list, tuple)):
        parts = list(found)
    else:
        vector = _array(found, given).ravel()
        if vector.size != model.params.size:
            raise UserCodeError(
                f"{given} returned {vector.size} numbers; expected the model's "
                f"{model.params.size} parameters in one vector"
            )
        return vector
    arrays = [_array(part, given) for part in parts]
    sizes = [array.size for array in arrays]
    if sizes != [one.size for one in wanted]:
        raise UserCodeError(
            f"{given} returned {len(arrays)} tensors of {sizes[:6]} numbers; expected the model's "
            f"{len(wanted)} of {[one.size for one in wanted[:6]]}: the parameters in its order, or "
            "a state_dict"
        )
    return np.concatenate([array.ravel() for array in arrays])


def _array(value: Any, given: str) -> NDArray:
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    if value.dtype.kind not in "fiu":
        raise UserCodeError(
            f"{given} returned {kind_of(value)} of {value.dtype}; expected weights: a vector, a "
            "list of tensors, a state_dict or a module"
        )
    if value.dtype == np.float32:
        raise UserCodeError(
            f"{given} returned float32 weights; expected float64, in which it is compared: build "
            "the module as the model does, and convert it with .double()"
        )
    return value.astype(np.float64)
