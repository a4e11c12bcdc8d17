"""Several processes that MPI sees as worlds of one are noticed by what their launcher has set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from strategies.launchers import EXPECTED, LAUNCHERS, launcher_in, without_launcher
from tests.strategies.comm.test_torch_comm import MPI_OWN

ROOT = Path(__file__).parents[2]
PROGRAM = """
from mpi4py import MPI
from nn import SGD, mlp
from strategies import DataParallel, Sequential

{strategy}
print("it trains")
"""

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]


def start(
    variables: dict[str, str], *command: str, strategy: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command, else a program that makes a strategy, as a process of its own world."""
    launchers = {name for pair in LAUNCHERS.values() for name in pair}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(MPI_OWN)}
    environment = {k: v for k, v in environment.items() if k not in launchers}
    return subprocess.run(
        [sys.executable, *(command or ("-c", PROGRAM.format(strategy=strategy)))],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


ON_WORLD = "DataParallel(mlp([4, 3]), SGD(0.1), MPI.COMM_WORLD)"
SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}


def test_a_strategy_refuses_to_train_alone_in_one_of_several_processes():
    """COMM_SELF, and plain training, are alone on purpose."""
    done = start(SLURM, strategy=f"Sequential(mlp([4, 3]), SGD(0.1))\nprint('plain')\n{ON_WORLD}")
    assert "plain" in done.stdout
    assert (
        "RuntimeError: srun (SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=4) has started several"
        in done.stderr
    )
    assert f"set {EXPECTED}=1 if each is meant to be alone" in done.stderr
    assert done.returncode == 1


def test_to_be_alone_on_purpose_is_to_be_on_comm_self_itself():
    """A communicator made of COMM_SELF cannot be told from one made of a world of one."""
    done = start(SLURM, strategy=ON_WORLD.replace("WORLD", "SELF"))
    assert "it trains" in done.stdout, done.stderr
    done = start(SLURM, strategy=ON_WORLD.replace("WORLD", "SELF.Dup()"))
    assert "To train alone, MPI.COMM_SELF itself will do" in done.stderr
    assert done.returncode == 1


def test_another_number_of_ranks_does_not_say_that_each_is_alone():
    done = start(SLURM | {EXPECTED: "4"}, strategy=ON_WORLD)
    assert "srun (SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=4) has started several" in done.stderr
    assert done.returncode == 1


def test_the_user_may_say_that_each_is_alone():
    done = start(SLURM | {EXPECTED: "1"}, strategy=ON_WORLD)
    assert "it trains" in done.stdout, done.stderr


def test_pytest_refuses_too():
    done = start(SLURM, "-m", "pytest", "-p", "no:cacheprovider", "tests/ranks", "-k", "zombie")
    assert done.stderr.startswith(
        "ERROR: srun (SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=4) has started several"
    ), done.stdout
    assert done.returncode == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_beside_a_size_tells_the_launcher(launcher, rank):
    """Rank 0 of a launcher that does not tell the size may be alone."""
    name, size = LAUNCHERS[launcher]
    found = launcher_in({name: str(rank)} | ({size: "2"} if size else {}))
    if rank or size:
        assert found == f"{launcher} ({name}={rank}{f', {size}=2' if size else ''})"
    else:
        assert found is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"},  # in salloc
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # in the script of sbatch
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"RANK": "high", "WORLD_SIZE": "2"},  # of another program
        {"WORLD_SIZE": "2"},
    ],
)
def test_a_process_alone_is_legitimate(environment):
    assert launcher_in(environment) is None


def test_a_process_without_a_launcher_is_a_world_of_its_own():
    mine = {"HOME": "/home", "OMP_NUM_THREADS": "1", "OMPI_MCA_osc": "^ucx", "SLURM_NTASKS": "4"}
    theirs = {name: "1" for names in LAUNCHERS.values() for name in names if name}
    theirs |= {EXPECTED: "2", "PMIX_NAMESPACE": "a", "PMI_FD": "3", "OMPI_MCA_ess_base_jobid": "4"}
    assert without_launcher(mine | theirs) == mine
    assert launcher_in(mine | theirs)
