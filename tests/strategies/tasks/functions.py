"""What the tests have run as tasks. Other processes import it."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from nn import SGD, data, mlp
from strategies import Sequential, train
from strategies.tasks import current

STEPS_PER_EPOCH = 4
EPOCHS = 5


def draw(task):
    """Numbers that depend on the task's seeds, some of them from the shared generators."""
    time.sleep(task.get("sleeps", 0))
    own = current().rng.normal(size=3)
    shared = [np.random.rand(), random.random()]  # noqa: NPY002
    return {"task": task["number"], "own": own, "shared": shared, "seed": current().seed}


def draws(count, **more):
    """Tasks for `draw`."""
    return [{"number": i, **more} for i in range(count)]


def shuffled(count, longest=0.06):
    """Tasks for `draw` that end in another order than they begin in, with several workers."""
    pauses = np.random.default_rng(0).permutation(count) / count * longest
    return [{"number": i, "sleeps": float(pause)} for i, pause in enumerate(pauses)]


def trained(task):
    """Train a small net on iris, with a checkpoint at every step, and return what it learned.

    The steps that are taken are noted in the file `task["steps"]`, a byte each. After the step
    `task["dies"]`, counted over all attempts, the process dies.
    """
    rows = data.load("iris")
    strategy = Sequential(
        mlp([4, 8, 3], seed=current().seed), SGD(task["rate"], momentum=0.9, nesterov=True)
    )
    taken = Path(task["steps"])
    Path(f"{taken}.pid").write_text(str(os.getpid()))

    def note(history):
        with taken.open("a") as file:
            file.write(".")
        time.sleep(task.get("sleeps", 0))
        if taken.stat().st_size in task.get("dies", ()):
            os.kill(os.getpid(), signal.SIGKILL)

    history = train(
        strategy,
        rows,
        batch_size=32,
        epochs=EPOCHS,
        seed=current().seed,
        checkpoint=current().checkpoint,
        checkpoint_every=1,
        on_step=note,
    )
    weights = strategy.weights()
    strategy.close()
    return {"loss": history.loss, "weights": weights}


def misbehaves(task):
    """Do what the task says: raise, die, end, sleep, start a child, return something odd."""
    attempt, do = current().attempt, task.get("do")
    if do == "raise":
        raise ValueError(f"no {task['number']}")
    if do == "exit":
        raise SystemExit(3)
    if do == "die" and attempt <= task["times"]:
        os.kill(os.getpid(), task.get("signal", signal.SIGKILL))
    if do == "end" and attempt <= task["times"]:
        os._exit(7)
    if do == "sleep":
        time.sleep(task["seconds"])
    if do == "return":
        return {"lambda": lambda: 0, "object": Odd()}[task["what"]]
    return {"number": task["number"], "attempt": attempt}


class Odd:
    """A value that can be pickled, but is not JSON."""

    def __eq__(self, other):
        return isinstance(other, Odd)

    def __hash__(self):
        return 0


def values(outcomes):
    """What the outcomes say, without times, such that equal means equal to the bit."""
    return [
        (each.task, comparable(each.value), each.error is None, each.attempts) for each in outcomes
    ]


def comparable(value):
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value
