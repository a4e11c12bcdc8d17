"""Pages with parts that a program writes, each between two marks."""

from pathlib import Path

from nn.atomic_write import atomic_write


def marks(name: str, program: str) -> tuple[str, str]:
    """The lines before and after the part `name`, which `program` writes."""
    return f"<!-- {name}: written by {program} -->", f"<!-- end of {name} -->"


def around(page: Path, marks: tuple[str, str]) -> tuple[str, str]:
    """Return what stands before and after the marks of a page.

    Raises:
        ValueError: the page does not have each mark once, in this order.
        OSError: the page cannot be read.
    """
    content = page.read_text(encoding="utf-8")
    head, first, rest = content.partition(marks[0])
    _, last, tail = rest.partition(marks[1])
    if not (first and last) or any(content.count(mark) != 1 for mark in marks):
        raise ValueError(f"{page} needs these two lines, to write between: {' and '.join(marks)}")
    return head, tail


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between the marks of a page by `text`, which ends in a newline.

    Raises:
        ValueError: the page does not have each mark once.
        OSError: the page cannot be read or written.
    """
    head, tail = around(page, marks)
    with atomic_write(page, "w", encoding="utf-8") as file:
        file.write(f"{head}{marks[0]}\n{text}{marks[1]}{tail}")
