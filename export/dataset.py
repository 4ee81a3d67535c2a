"""Labelled photographs on disk: read, checked and split before hours are spent on them.

Two layouts are understood. A folder with a ``manifest.csv`` (columns ``path, source, split,
label, group`` and, where known, ``wbc_boxes``), or a folder of class folders, which is split
70/20/10 here. A group is photographs that show the same cell. No split made here cuts through
one; a manifest's own splits are taken as they are, and measured with and without those that do.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.contract import CLASSES
from gateway.pixels import to_tensor, upright_rgb

Box = tuple[int, int, int, int]
Cell = tuple[str, str]

SPLITS = ("train", "val", "test")
OTHER = "other"
"""The split of cells that are of none of the classes."""
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
NONE_OF_THESE = -1
"""The label of a cell that is of none of the classes."""

VALIDATION_SHARE = 0.15
"""Share of a source's training groups that validate, where the source brings no such split."""


class DatasetError(ValueError):
    """The data cannot be trained or evaluated on; the message names what to mend."""


@dataclass(frozen=True)
class Photograph:
    """One labelled photograph.

    ``label`` indexes ``CLASSES``, or is ``NONE_OF_THESE``, and ``kind`` then names what it is.
    ``boxes`` are the white cells' xmin, ymin, xmax, ymax in pixels of the upright picture, where
    somebody drew them.
    """

    path: Path
    label: int
    source: str
    split: str
    group: str
    boxes: tuple[Box, ...] = ()
    kind: str = ""

    @property
    def cell(self) -> Cell:
        """Source and group: photographs of one cell have it in common, and no others."""
        return self.source, self.group

    @property
    def box(self) -> Box | None:
        """The first white cell's."""
        return self.boxes[0] if self.boxes else None


def read_dataset(root: Path) -> list[Photograph]:
    """List the photographs of the four classes under ``root``, each with its split.

    Raises:
        DatasetError: no data, unknown labels or splits, missing files, an empty class; every
            offending row is named. The split ``other`` is passed over.
    """
    manifest = root / "manifest.csv"
    if manifest.is_file():
        photographs = [p for p in _read_manifest(manifest) if p.split != OTHER]
    elif root.is_dir():
        photographs = _read_class_folders(root)
    else:
        raise DatasetError(f"{root} is not a folder: give one with a manifest.csv or class folders")
    photographs = _with_validation(photographs)
    _refuse_empty_classes(photographs, root)
    return photographs


def read_others(root: Path) -> list[Photograph]:
    """List what the manifest marks ``other``: cells of other kinds, to test abstaining with.

    Raises:
        DatasetError: as ``read_dataset`` does.
    """
    manifest = root / "manifest.csv"
    return select(_read_manifest(manifest), "other") if manifest.is_file() else []


def select(photographs: Iterable[Photograph], split: str) -> list[Photograph]:
    """Return the photographs of one split, in their order."""
    return [photograph for photograph in photographs if photograph.split == split]


def load_upright(path: Path) -> Image.Image:
    """Decode one photograph to upright RGB, as the gateway does.

    Raises:
        DatasetError: the file is missing, truncated or no picture; the message names it.
    """
    try:
        with Image.open(path) as picture:
            return upright_rgb(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: {error}") from error  # what Pillow raises on bad files


def load_input(path: Path) -> NDArray[np.uint8]:
    """Decode one photograph as the model sees it: uint8 [224, 224, 3], RGB.

    The gateway prepares its requests with the same functions.
    """
    return to_tensor(load_upright(path))


def refuse_unreadable(photographs: Sequence[Photograph]) -> None:
    """Decode every file, in the time that one epoch would take to find the first bad one.

    Raises:
        DatasetError: naming each file that is no picture, or half of one.
    """

    def problem(photograph: Photograph) -> str | None:
        try:
            load_upright(photograph.path)
        except DatasetError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        unreadable = [found for found in pool.map(problem, photographs) if found]
    if unreadable:
        raise DatasetError(_listing("unreadable pictures (remove or replace them)", unreadable))


def _read_manifest(manifest: Path) -> list[Photograph]:
    photographs, problems = [], []
    with manifest.open(newline="", encoding="utf-8-sig") as rows:  # spreadsheets write a mark
        reader = csv.DictReader(rows)
        missing = {"path", "source", "split", "label", "group"} - set(reader.fieldnames or ())
        if missing:
            raise DatasetError(f"{manifest} lacks the columns {', '.join(sorted(missing))}")
        for row in reader:
            problem = _problem(row, manifest.parent)
            if problem:
                problems.append(f"{row['path']}: {problem}")
            else:
                photographs.append(_photograph(row, manifest.parent))
    if problems:
        raise DatasetError(_listing(f"rows of {manifest} that cannot be used", problems))
    return photographs


def _problem(row: dict[str, str], root: Path) -> str | None:
    if row["split"] not in (*SPLITS, OTHER):
        return f"split {row['split']!r} is not one of {(*SPLITS, OTHER)}"
    if row["split"] != OTHER and row["label"] not in CLASSES:
        return f"label {row['label']!r} is not one of {CLASSES}"
    if not (root / row["path"]).is_file():
        return "no such file"
    try:
        _boxes(row.get("wbc_boxes") or "")
    except ValueError:
        return f"wbc_boxes {row['wbc_boxes']!r} is no `xmin ymin xmax ymax`, `;` between boxes"
    return None


def _photograph(row: dict[str, str], root: Path) -> Photograph:
    return Photograph(
        root / row["path"],
        NONE_OF_THESE if row["split"] == OTHER else CLASSES.index(row["label"]),
        row["source"],
        row["split"],
        row["group"] or row["path"],
        _boxes(row.get("wbc_boxes") or ""),
        kind=row["label"],
    )


def _boxes(text: str) -> tuple[Box, ...]:
    boxes = []
    for box in filter(str.strip, text.split(";")):
        xmin, ymin, xmax, ymax = (int(edge) for edge in box.split())
        boxes.append((xmin, ymin, xmax, ymax))
    return tuple(boxes)


def _read_class_folders(root: Path) -> list[Photograph]:
    photographs = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name.upper() not in CLASSES:
            raise DatasetError(f"{folder} is none of the class folders {', '.join(CLASSES)}")
        label = CLASSES.index(folder.name.upper())
        files = [p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES]
        names = sorted((p.relative_to(root).as_posix() for p in files), key=_shuffled)
        for position, name in enumerate(names):
            share = position / len(names)
            split = "train" if share < 0.7 else "val" if share < 0.9 else "test"
            photographs.append(Photograph(root / name, label, root.name, split, name))
    return photographs


def _shuffled(name: str) -> str:
    """Order by a hash of the name: a shuffle that is the same on every machine and run."""
    return hashlib.sha256(name.encode()).hexdigest()


def _with_validation(photographs: list[Photograph]) -> list[Photograph]:
    """Give each source without a validation split a share of its training groups as one."""
    lacking = {p.source for p in photographs} - {p.source for p in photographs if p.split == "val"}
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for photograph in photographs:
        if photograph.source in lacking and photograph.split == "train":
            groups[photograph.source, photograph.label].append(photograph.group)
    chosen: set[tuple[str, str]] = set()
    for (source, _), members in groups.items():
        ordered = sorted(set(members), key=_shuffled)
        count = round(VALIDATION_SHARE * len(ordered))
        chosen.update((source, group) for group in ordered[:count])
    return [
        replace(p, split="val") if p.split == "train" and (p.source, p.group) in chosen else p
        for p in photographs
    ]


def _refuse_empty_classes(photographs: Sequence[Photograph], root: Path) -> None:
    present = {photograph.label for photograph in photographs}
    empty = [name for label, name in enumerate(CLASSES) if label not in present]
    if empty:
        raise DatasetError(f"{root} has no photograph of {', '.join(empty)}")


def _listing(title: str, lines: Sequence[str], most: int = 20) -> str:
    shown = "\n  ".join(lines[:most])
    more = f"\n  and {len(lines) - most} more" if len(lines) > most else ""
    return f"{len(lines)} {title}:\n  {shown}{more}"
