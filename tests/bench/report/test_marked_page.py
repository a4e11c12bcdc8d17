"""What stands outside the marks of a page is never lost."""

import pytest

from bench.report.marked_page import around, marks, write_between

pytestmark = pytest.mark.workers(1)

FIRST, LAST = marks("a part", "a program")


def test_only_what_stands_between_the_marks_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{FIRST}\nold\n{LAST}\nafter\n")
    write_between(page, (FIRST, LAST), "new\n")
    assert page.read_text() == f"before\n{FIRST}\nnew\n{LAST}\nafter\n"


@pytest.mark.parametrize(
    "content",
    [
        "no marks",
        FIRST,
        LAST,
        f"{LAST} {FIRST}",
        f"{FIRST} {FIRST} {LAST}",
        f"{FIRST} {LAST} kept {FIRST} {LAST}",
        f"{FIRST} {LAST} {LAST}",
    ],
)
def test_marks_that_leave_a_doubt_are_refused(tmp_path, content):
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match=r"page\.md needs these two lines"):
        write_between(page, (FIRST, LAST), "new\n")
    assert page.read_text() == content
    with pytest.raises(ValueError, match="between: <!-- a part"):
        around(page, (FIRST, LAST))
