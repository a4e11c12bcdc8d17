"""How a model is trained on folds: what the tasks of `kfold` and `Ensemble` have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nn.data import Dataset
from strategies.sequential import Sequential
from strategies.tasks.fitting import fit
from strategies.tasks.models import Builder, built
from strategies.tasks.running import current
from strategies.tasks.schedules import Maker, made
from strategies.training import History


@dataclass(frozen=True)
class FoldTraining:
    """Trains a model by name, with a schedule by name, on some rows of a set.

    Attributes:
        models, schedules: by name.
        k, stratified, seed: of the division into folds.
        loss, optimizer, batch_size, epochs, checkpoint_every: as for `kfold`.
    """

    models: dict[str, Builder]
    schedules: dict[str, Maker]
    dataset: Dataset
    k: int
    stratified: bool
    seed: int
    loss: Any
    optimizer: Callable[..., Any]
    batch_size: int
    epochs: int
    checkpoint_every: int | None = field(compare=False)  # changes nothing of the result

    def fold(self, number: int) -> Dataset:
        """Return the rows without a fold, which is set aside to validate."""
        return self.dataset.fold(number, self.k, self.stratified, self.seed)

    def steps(self, rows: Dataset) -> int:
        """Return the steps of a training on these rows."""
        return self.epochs * rows.steps_per_epoch(self.batch_size)

    def untrained(self, model: str, schedule: str, steps: int, seed: int) -> Sequential:
        """Build a model, and what trains it in so many steps."""
        maker = made(schedule, self.schedules[schedule], steps)
        return Sequential(built(self.models[model], seed, self.loss), self.optimizer(maker))

    def trained(
        self,
        model: str,
        schedule: str,
        rows: Dataset,
        on_step: Callable[[History], Any] | None = None,
    ) -> tuple[Sequential, History]:
        """Train with the seeds and the checkpoint of the task that is running."""
        here = current()
        weights_seed, order_seed = map(int, here.seeds.generate_state(2))
        strategy = self.untrained(model, schedule, self.steps(rows), weights_seed)
        history = fit(
            strategy,
            rows,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=order_seed,
            checkpoint=None if self.checkpoint_every is None else here.checkpoint,
            checkpoint_every=self.checkpoint_every,
            on_step=on_step,
        )
        return strategy, history
