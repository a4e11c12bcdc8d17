"""The one training loop, the history that it returns, and the checkpoints that it resumes from.

    history = train(strategy, digits, batch_size=256, epochs=5, evaluate=accuracy)
    history.loss[-1], history.evaluations[-1].values["accuracy"]

`History` says what is kept of a training, and `train` how one is resumed.
"""

from strategies.training.history import Evaluation, History
from strategies.training.loop import train
from strategies.training.resuming import load, save

__all__ = ["Evaluation", "History", "load", "save", "train"]
