"""One trial of a search: a model that is built and trained as a configuration says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

from nn.arguments import as_int
from nn.data import Dataset
from strategies.sequential import Sequential
from strategies.tasks.fitting import Score, fit, score, validation_rows
from strategies.tasks.keys import seeds_of
from strategies.tasks.models import Builder, built, fully_connected
from strategies.tasks.space import OPTIMIZERS, SCHEDULES, USUAL, of_model
from strategies.training import History


@dataclass(frozen=True)
class Trained:
    """A trial that has been trained.

    Attributes:
        model: with its trained parameters.
        history: of the training.
        score: on the validation rows.
    """

    model: Any
    history: History
    score: Score

    def __repr__(self) -> str:
        return (
            f"<Trained {type(self.model).__name__}: {self.history.epochs} epochs, "
            f"{self.score.accuracy:.2%} of the validation rows>"
        )


def train_configuration(
    configuration: Mapping[str, Any],
    dataset: Dataset,
    *,
    epochs: int | None = None,
    model: Builder | None = None,
    optimizers: Mapping[str, Callable[..., Any]] = OPTIMIZERS,
    loss: Any = None,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
) -> Trained:
    """Train as a trial of `search` with the same arguments does, to the same bits.

    Args:
        configuration: as `search` found it.
        dataset: a set with validation rows.
        epochs: how far to train; by default to the configuration's end. Its schedule is that of the
            whole training all the same.
        model, optimizers, loss, seed: as for `search`.
        checkpoint, checkpoint_every: as for `strategies.train`; without `checkpoint_every` one is
            written at the end only.

    Raises:
        TypeError, ValueError: the configuration lacks a value, or one is not what is expected.
    """
    configuration = {**USUAL, **configuration}
    if model is None:
        model = partial(fully_connected, dataset.x.shape[1], dataset.classes)
    x, y = validation_rows(dataset)
    weights_seed, order_seed = map(int, seeds_of(configuration, seed).generate_state(2))
    net = built(model, weights_seed, loss, **of_model(configuration))
    most, batch_size = configuration["epochs"], configuration["batch_size"]
    make_schedule = SCHEDULES[configuration["schedule"]]
    schedule = make_schedule(configuration["lr"], most * dataset.steps_per_epoch(batch_size))
    history = fit(
        Sequential(net, optimizers[configuration["optimizer"]](schedule)),
        dataset,
        batch_size=batch_size,
        epochs=most if epochs is None else as_int("epochs", epochs, 1, most),
        seed=order_seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    return Trained(net, history, score(net.predict(x), y, dataset.classes))
