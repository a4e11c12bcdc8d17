"""Kill a run of tasks at random moments, let another one go on with its journal, and say how.

    python -m tests.strategies.tasks.killed_run FOLDER TIMES

Prints, for each journal: how often its runs were killed, and how many tasks the last one found.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import mpi4py

mpi4py.rc.initialize = False  # it forks, and needs no ranks

from strategies.tasks import current, run_tasks  # noqa: E402

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


def run(journal="run.jsonl"):
    return run_tasks(counted, TASKS, journal=journal, progress=False)


def killed(after):
    """Start a run in another process and kill it; returns whether it had not ended before."""
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def in_new_folder(folder):
    folder.mkdir()
    os.chdir(folder)


def main(folder, times):
    rng, lasts = random.Random(0), 0.0
    for name in ("warm", "alone"):
        in_new_folder(folder / name)
        began = time.perf_counter()
        expected = [each.value for each in run()]
        lasts = time.perf_counter() - began
    kills = number = 0
    while kills < times:
        in_new_folder(folder / str(number))
        # Killed once or more, at moments from the start of a run to its end.
        of_this = sum(killed(rng.uniform(0, lasts)) for _ in range(1 + number % 3))
        path = Path("run.jsonl")
        found = path.read_bytes().count(b'"kind": "task"') if path.exists() else 0
        kills, number = kills + of_this, number + 1
        outcomes = run()
        assert [each.task for each in outcomes] == TASKS
        assert [each.value for each in outcomes] == expected
        print(of_this, found, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
