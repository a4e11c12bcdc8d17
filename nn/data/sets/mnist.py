"""MNIST from the user's files: IDX, plain or gzip, in a folder or by name; `.npz`; `.mat`."""

from dataclasses import replace
from pathlib import Path

from nn.data.formats import arrays, idx
from nn.data.raw import Raw

_PIXELS, _CLASSES = 784, 10
_PARTS = ("train", "t10k")
_FORMS = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}


def find(path: Path) -> list[Path]:
    """Find the files that `path` stands for: one set of arrays, or IDX images and labels.

    Args:
        path: a `.npz` or `.mat` file; an IDX file of images or of labels, with its partner beside
            it; or a folder with IDX files under their usual names (train-images-idx3-ubyte,
            train-labels-idx1-ubyte, t10k-..., also with a dot before idx, also with .gz), of both
            parts or of one.

    Raises:
        FileNotFoundError: there are no such files, or images without labels or the reverse.
    """
    if path.is_dir():
        found = [file for part in _PARTS for file in _pair(path, part)]
        if not found:
            raise FileNotFoundError(
                f"{path}: no MNIST files in this folder; expected train-images-idx3-ubyte and "
                "train-labels-idx1-ubyte, or t10k-..., plain or .gz"
            )
        return found
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; expected MNIST files")
    if path.suffix in arrays.SUFFIXES:
        return [path]
    for part in _PARTS:
        for place, kind in enumerate(_FORMS):
            if path.name in _names(part, kind):
                pair = _pair(path.parent, part)
                pair[place] = path  # the file asked for, if it is there both plain and zipped
                return pair
    raise FileNotFoundError(
        f"{path}: not a name of an MNIST file; expected train-images-idx3-ubyte or the like, "
        "plain or .gz, or a name that ends in .npz or .mat"
    )


def read(paths: list[Path]) -> Raw:
    """Read rows of 784 pixels and labels 0..9 from the files that `find` found.

    Raises:
        ValueError: a file is damaged or holds something else; the message names the file.
    """
    if len(paths) == 1:
        raw = arrays.read(paths[0])
    else:
        x, y = idx.read_images(paths[0]), idx.read_labels(paths[1])
        x_test, y_test = None, None
        if len(paths) == 4:
            x_test, y_test = idx.read_images(paths[2]), idx.read_labels(paths[3])
        origin = f"{paths[0].parent}: {', '.join(path.name for path in paths)}"
        raw = Raw(x, y, x_test, y_test, _CLASSES, origin, images=True)
    if raw.x.shape[1:] != (_PIXELS,):
        raise ValueError(
            f"{paths[0]}: {raw.x.shape[1:]} columns; expected images of 28x28, {_PIXELS} columns "
            '(other sets of arrays: load("file", path=...))'
        )
    return replace(raw, classes=_CLASSES, images=True)


def _names(part: str, kind: str) -> list[str]:
    """All names that a file of this part and kind may have."""
    return [f"{part}-{kind}{mark}{_FORMS[kind]}{end}" for mark in "-." for end in ("", ".gz")]


def _pair(folder: Path, part: str) -> list[Path]:
    """Files of the images and labels of one part; none if the folder has neither."""
    found = {
        kind: [folder / name for name in _names(part, kind) if (folder / name).is_file()]
        for kind in _FORMS
    }
    if not any(found.values()):
        return []
    for kind, files in found.items():
        if not files:
            plain, zipped = _names(part, kind)[:2]
            raise FileNotFoundError(
                f"{folder}: {part} {kind} are missing; expected {plain} or {zipped}"
            )
    return [files[0] for files in found.values()]
