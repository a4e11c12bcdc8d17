"""Kill a run of tasks at random moments, let another one go on with its journal, and say how.

    python -m tests.strategies.tasks.killed_run FOLDER TIMES [kfold | search]

The run is one of `run_tasks`, `kfold` or `search`. Prints, for each journal: how often its runs
were killed, and how many tasks the last one found. The last one must equal a run without kills.
"""

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

from nn.data import load
from strategies.tasks import current, kfold, run_tasks, search
from tests.strategies.tasks.nets import learnable_rows, small, wide, write

COUNT = 8


def counted(task):
    """Note in a file that the task was begun, go on where an earlier attempt was, and draw."""
    with Path(task["begun"]).open("a") as file:
        file.write(f"{task['number']}\n")
    part, parts = current().checkpoint, [str(x) for x in current().rng.random(4)]
    done = part.read_text().split() if part.exists() else []
    for each in parts[len(done) :]:
        time.sleep(0.001)
        done.append(each)
        part.write_text("\n".join(done))
    return {"number": task["number"], "draws": done}


TASKS = [{"number": i, "begun": "begun"} for i in range(COUNT)]


def of_tasks(dataset, **options):
    outcomes = run_tasks(counted, TASKS, progress=False, **options)
    return [(each.task, each.value) for each in outcomes]


def of_kfold(dataset, **options):
    options |= dict(batch_size=8, epochs=6, checkpoint_every=5)
    found = kfold({"small": small}, {"low": 0.05, "high": 0.3}, dataset, 4, **options)
    return [(fold.weights, fold.right) for scores in found.scores for fold in scores.folds]


def of_search(dataset, **options):
    space = {"lr": [0.3, 0.1, 0.01], "width": [2, 8], "batch_size": 8, "epochs": 8}
    options |= dict(model=wide, how="halving", eta=2, checkpoint_every=5)
    found = search(space, dataset, **options)
    return found.decisions(), found.test_accuracy, found.order


RUNS = {"tasks": of_tasks, "kfold": of_kfold, "search": of_search}


def ended():
    """How many tasks the journal of the run in this folder says have ended."""
    path = Path("run.jsonl")
    return path.read_bytes().count(b'"kind": "task"') if path.exists() else 0


def killed(run, count, after):
    """Start a run in another process and kill it; returns whether it had not ended before.

    It is killed `after` seconds after its journal had `count` tasks. The clock alone would not
    do: on a busy machine it kills every run in its first tasks, or after its last one.
    """
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    while ended() < count and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.0005)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def in_new_folder(folder):
    folder.mkdir()
    os.chdir(folder)


def main(folder, times, what="tasks"):
    rng, lasts = random.Random(0), 0.0
    rows = write(folder / "rows.npz", **learnable_rows())
    dataset = load("file", path=rows, validation=0.3 if what == "search" else None)
    run = partial(RUNS[what], dataset, journal="run.jsonl")
    for name in ("warm", "alone"):
        in_new_folder(folder / name)
        began = time.perf_counter()
        expected = run()
        lasts = time.perf_counter() - began
    tasks = ended()
    counts, kills, number = [], 0, 0
    while kills < times:
        in_new_folder(folder / str(number))
        # Killed once or more, at moments from the start of a run to its end.
        counts = counts or rng.sample(range(tasks), tasks)
        count, of_this = counts.pop(), 0
        for _ in range(1 + number % 3):
            of_this += killed(run, count, rng.uniform(0, lasts / tasks))
        found = ended()
        kills, number = kills + of_this, number + 1
        assert run() == expected
        print(of_this, found, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
