"""The same training step by JAX, whose compiler XLA makes one program of it.

XLA starts a thread for each core that it may use when it starts, whatever it is told of threads.
Import this module before anything else uses JAX, and it computes on one core at a time.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.cores import on_core
from bench.peers.fully_connected import linears_of
from nn import Batch, Model

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp

with on_core(0):
    jax.devices()  # starts it


class JaxNet:
    """A fully connected net with a copy of a model's weights, trained by plain SGD.

    Args:
        model: as `linears_of` takes it.
        lr: the learning rate.

    Raises:
        ValueError: as `linears_of`.
    """

    def __init__(self, model: Model, lr: float):
        self._lr, self._dtype = lr, model.dtype
        with self._precision():
            self._params = [tuple(map(jnp.array, layer.params)) for layer in linears_of(model)]

    def _precision(self) -> AbstractContextManager:
        """A context for float64, which JAX does not compute by default."""
        return jax.enable_x64(True) if self._dtype == np.float64 else nullcontext()

    def put(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Hand a batch over to JAX, so that a step need not copy it."""
        with self._precision():
            return jnp.array(batch.x, self._dtype), jnp.array(batch.y, np.int32)

    def train(self, x: jax.Array, y: jax.Array) -> float:
        """Take a step on a batch from `put`, and return its loss."""
        with self._precision():
            self._params, loss = _step(self._params, x, y, self._lr)
            return float(loss)

    def step(self, batch: Batch) -> float:
        return self.train(*self.put(batch))

    def weights(self) -> NDArray:
        """Return all parameters, in the order of `Model.params`."""
        return np.concatenate([np.ravel(each) for layer in self._params for each in layer])


@partial(jax.jit, donate_argnums=0, static_argnums=3)
def _step(params: Any, x: jax.Array, y: jax.Array, lr: float) -> tuple[Any, jax.Array]:
    loss, grads = jax.value_and_grad(_loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - lr * g, params, grads), loss


def _loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    *hidden, (weight, bias) = params
    for each, shift in hidden:
        x = jax.nn.relu(x @ each.T + shift)
    log_p = jax.nn.log_softmax(x @ weight.T + bias)
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()
