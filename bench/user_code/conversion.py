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
from nn.sequences import Sequences


def as_model(made: Any, dtype: str, argument: str, factory: Any, rows: Rows | None) -> Model:
    """Return a model of that dtype with the same parameters; torch modules are wrapped.

    Args:
        made: what `factory` returned.
        argument: the argument of `--model`, for messages.
        rows: the rows that the model will be trained on, if they are known.

    Raises:
        UserCodeError: it is no model, cannot be trained by plain training, or is a module that
            does not say what rows it takes.
    """
    torch = sys.modules.get("torch")  # code that makes a module has imported it
    if torch and isinstance(made, torch.nn.Module):
        return _wrapped(made, dtype, _input_shape(made, factory, rows), argument)
    if not isinstance(made, Model):
        raise UserCodeError(
            f"--model {argument}: it returned {kind_of(made)}; expected a nn.Model, a TorchModel "
            "or a torch.nn.Module"
        )
    if getattr(made, "sync_batch_norm", None):
        raise UserCodeError(
            f"--model {argument}: it has sync_batch_norm, in which plain training would wait for "
            "the other ranks; expected a model without (your strategy can make one that has it)"
        )
    if str(made.dtype) == dtype:
        return made
    if hasattr(made, "converted"):  # a TorchModel: torch's buffers have a dtype too
        twin: Any = made.converted(dtype)
        twin.clock = made.clock  # type: ignore[attr-defined]
        return twin
    params = made.params.astype(dtype)
    made.bind(params, np.zeros_like(params))
    return made


def _wrapped(module: Any, dtype: str, input_shape: Any, argument: str) -> Model:
    from nn.torch import TorchModel  # torch takes a second to import

    try:
        return TorchModel(module, dtype=dtype, seed=None, input_shape=input_shape)
    except ValueError as error:
        if input_shape is None and "input_shape" in str(error):
            name = argument.rpartition(":")[2]
            raise UserCodeError(
                f"--model {argument}: its first layer does not say what shape a row has; write "
                f"`{name}.input_shape = (1, 28, 28)`, with your shape, below the function"
            ) from error
        raise


def _input_shape(module: Any, factory: Any, rows: Rows | None) -> Any:
    """Return the `input_shape` of the factory or the module, or else the shape of the rows."""
    for one in (factory, module):
        if (shape := getattr(one, "input_shape", None)) is not None:
            return shape
    return rows(index=[0]).x.shape[1:] if rows else None


def as_rows(data: Any) -> Rows | None:
    """Return the rows of (x, y), a batch, a data set or sequences; None for anything else."""
    if isinstance(data, Sequences):
        return partial(Sequences, data.tokens)
    if isinstance(data, Batch | Dataset):
        data = data.x, data.y
    return partial(Batch, *data) if isinstance(data, tuple) and len(data) == 2 else None


def kind_of(value: Any) -> str:
    """Say in words what something is."""
    if inspect.isclass(value):
        return "a class"
    if inspect.isfunction(value):
        return "a function"
    return "None" if value is None else f"an object of type {type(value).__name__}"
