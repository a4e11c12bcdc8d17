"""Turn what a user's function returned into a model of a dtype, or into rows."""

import inspect
import sys
from functools import partial
from typing import Any

import numpy as np

from bench.user_code import UserCodeError
from bench.user_code.nets import Rows
from nn import Batch, Model
from nn.data import Dataset
from nn.loss import Loss
from nn.sequences import Sequences


def as_model(
    made: Any, dtype: str, given: str, factory: Any, rows: Rows | None, loss: Any = None
) -> Model:
    """Return a model of that dtype with the same parameters; torch modules are wrapped.

    Args:
        made: what `factory` returned.
        given: the option with its argument, for messages: `--model path/to/file.py:factory`.
        rows: the rows that the model will be trained on, if they are known.
        loss: what to train in the place of the model's own loss; None keeps that.

    Raises:
        UserCodeError: it is no model, cannot be trained by plain training, or is a module that
            does not say what rows it takes.
    """
    torch = sys.modules.get("torch")  # code that makes a module has imported it
    if torch and isinstance(made, torch.nn.Module):
        return _wrapped(made, dtype, _input_shape(made, factory, rows), given, loss)
    if not isinstance(made, Model):
        raise UserCodeError(
            f"{given}: it returned {kind_of(made)}; expected a nn.Model, a TorchModel, a "
            "torch.nn.Module or a nn.Recipe"
        )
    if getattr(made, "sync_batch_norm", None):
        raise UserCodeError(
            f"{given}: it has sync_batch_norm, in which plain training would wait for the other "
            "ranks; expected a model without (your strategy can make one that has it)"
        )
    if loss is not None:
        made.loss = _as_loss(loss)
    if str(made.dtype) == dtype:
        return made
    if hasattr(made, "converted"):  # a TorchModel: torch's buffers have a dtype too
        twin: Any = made.converted(dtype)
        twin.clock = made.clock  # type: ignore[attr-defined]
        return twin
    params = made.params.astype(dtype)
    made.bind(params, np.zeros_like(params))
    return made


def _as_loss(loss: Any) -> Any:
    """Return a loss as models take it."""
    if isinstance(loss, Loss):
        return loss
    from nn.torch.loss import as_loss  # torch takes a second to import

    return as_loss(loss)


def _wrapped(module: Any, dtype: str, input_shape: Any, given: str, loss: Any) -> Model:
    from nn.torch import TorchModel  # torch takes a second to import

    own = {} if loss is None else {"loss": loss}
    try:
        return TorchModel(module, dtype=dtype, seed=None, input_shape=input_shape, **own)
    except ValueError as error:
        if input_shape is None and "input_shape" in str(error):
            name = given.rpartition(":")[2]
            raise UserCodeError(
                f"{given}: its first layer does not say what shape a row has; write "
                f"`{name}.input_shape = (1, 28, 28)`, with your shape, below the function"
            ) from error
        raise


def _input_shape(module: Any, factory: Any, rows: Rows | None) -> Any:
    """Return the `input_shape` of the factory or the module, or else the shape of the rows."""
    for one in (factory, module):
        if (shape := getattr(one, "input_shape", None)) is not None:
            return shape
    if rows is None:
        return None
    x = rows(index=[0]).x
    if isinstance(x, dict):
        return {name: array.shape[1:] for name, array in x.items()}
    return tuple(array.shape[1:] for array in x) if isinstance(x, tuple) else x.shape[1:]


def as_rows(data: Any) -> Rows | None:
    """Return the rows of (x, y), a batch, a data set or sequences; None for anything else."""
    if isinstance(data, Sequences):
        return partial(Sequences, data.tokens)
    if isinstance(data, Batch):
        return partial(Batch, data.x, data.y, weights=data.weights)
    if isinstance(data, Dataset):
        data = data.x, data.y
    return partial(Batch, *data) if isinstance(data, tuple) and len(data) == 2 else None


def kind_of(value: Any) -> str:
    """Say in words what something is."""
    if inspect.isclass(value):
        return "a class"
    if inspect.isfunction(value):
        return "a function"
    return "None" if value is None else f"an object of type {type(value).__name__}"
