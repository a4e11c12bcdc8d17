"""Pages with parts that a program writes, each between two marks."""

from pathlib import Path

from nn.atomic_write import atomic_write


def marks(name: str, program: str) -> tuple[str, str]:
    """The lines before and after the part `name`, which `program` writes."""
    return f"<!-- {name}: written by {program} -->", f"<!-- end of {name} -->"


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between the marks of a page by `text`, which ends in a newline.

    Raises:
        ValueError: the page does not have each mark once.
        OSError: the page cannot be read or written.
    """
    content = page.read_text(encoding="utf-8")
    if any(content.count(mark) != 1 for mark in marks):
        raise ValueError(f"{page} needs these two lines, to write between: {' and '.join(marks)}")
    head, rest = content.split(marks[0])
    _, tail = rest.split(marks[1])
    with atomic_write(page, "w", encoding="utf-8") as file:
        file.write(f"{head}{marks[0]}\n{text}{marks[1]}{tail}")
