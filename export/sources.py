"""Data sets as their publishers hand them out, turned into a folder with a manifest.

Three are known, each told by the names of its files, as a folder, a .zip or a .tar(.gz):

* PBC, Mendeley Data snkd93bnjr: ``PBC_dataset_normal_DIB/`` with eight class folders, a cell a
  picture (``neutrophil/BNE_100878.jpg``). It brings no split: the groups of each class are drawn
  into 70 % train, 10 % val and 20 % test by a hash of their names.
* BCCD, Shenggan/BCCD_Dataset: fields as ``JPEGImages/BloodImage_00000.jpg``, with white cells
  boxed in ``Annotations/*.xml``. It says of no white cell what kind it is: ``labels.csv`` does,
  which the next one has.
* 'Blood Cell Images', Kaggle paultimothymooney/blood-cells: the fields of BCCD with
  ``labels.csv``, and copies of them, turned and mirrored, in ``images/TRAIN``, ``TEST`` and
  ``TEST_SIMPLE``. The fields are taken, each in the split where its copies lie; the copies only
  where the fields are not there.

What is wrong with one picture costs that picture: unreadable, in no class folder, the second of
two files with the same content, both of them where their labels differ, without its row in
``labels.csv``, or listed and not there. Each is named, and the rest is written. What is wrong
with the labels is refused: an unknown class folder, a label outside the list, no labels at all,
or one of the four classes without a picture.
"""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol
from xml.etree import ElementTree as ET

from export.dataset import PICTURE_SUFFIXES, SPLITS, DatasetError, load_upright, read_dataset
from gateway.contract import CLASSES

COLUMNS = ("path", "source", "split", "label", "group", "width", "height", "wbc_boxes", "note")

_UNKNOWN = (
    "holds none of the known data sets: PBC has class folders such as "
    "neutrophil/BNE_100878.jpg, BCCD has JPEGImages/BloodImage_00000.jpg beside Annotations, "
    "'Blood Cell Images' has those or images/TRAIN/NEUTROPHIL/_0_1095.jpeg"
)
_NO_LABELS = (
    "no labels.csv (columns Image, Category) says what kind of cell each BloodImage shows, and "
    "the BCCD repository has none: put the one of 'Blood Cell Images' "
    "(kaggle.com/datasets/paultimothymooney/blood-cells) into the folder"
)

_COPIES_REMARK = (
    "copies do not say which photograph they show, so none can be set apart to validate: "
    "training wants another source beside them, and the photographs themselves are better"
)

_PBC_FOLDERS = {
    "basophil": "BASOPHIL",
    "eosinophil": "EOSINOPHIL",
    "erythroblast": "ERB",
    "ig": "IG",
    "lymphocyte": "LYMPHOCYTE",
    "monocyte": "MONOCYTE",
    "neutrophil": "NEUTROPHIL",
    "platelet": "PLATELET",
}
_IMMATURE = frozenset({"MMY", "MY", "PMY"})
"""Prefixes in the folder ``ig`` that say more than the folder does."""

_PBC_NAME = re.compile(
    r"(BA|BNE|EO|ERB|IG|LY|MMY|MO|MY|NEU|NEUTROPHIL|PLATELET|PMY|SNE)_\d+\.jpe?g", re.IGNORECASE
)
_FIELD = re.compile(r"BloodImage_(\d{5})\.jpe?g", re.IGNORECASE)
_ANNOTATION = re.compile(r"BloodImage_(\d{5})\.xml", re.IGNORECASE)
_COPY = re.compile(r"(?:.*/)?(TRAIN|TEST|TEST_SIMPLE)/([^/]+)/(_\d+_\d+\.jpe?g)")

# The number in a copy's name counts within its folder: there is TRAIN/EOSINOPHIL/_0_207.jpeg,
# and field 00000 is a NEUTROPHIL. So the split of the fields is not read from those names. It is
# what scikit-learn's train_test_split(test_size=0.2, random_state=10) draws of the fields with
# one label, in the order of labels.csv, in the script that made the copies:
# https://github.com/dhruvp/wbc-classification, augment_data.ipynb
_TEST_FIELDS = frozenset({
    1, 6, 13, 26, 29, 30, 39, 50, 55, 62, 67, 68, 76, 77, 82, 91, 93, 95, 104, 110, 126, 139, 142,
    150, 158, 163, 170, 175, 180, 183, 189, 192, 204, 211, 214, 215, 216, 223, 237, 243, 250, 252,
    257, 263, 264, 270, 272, 275, 287, 291, 298, 301, 309, 310, 319, 325, 326, 345, 351, 354, 355,
    357, 360, 365, 377, 378, 387, 390, 398, 402, 409,
})  # fmt: skip

# Fields that were photographed of one place of a smear, most with the same white cell in both,
# compared by eye; nothing that is published lists them.
_SCENES = (
    (19, 20), (37, 38), (40, 41), (44, 45), (107, 108), (160, 161), (165, 166, 193),
    (204, 205, 276, 277), (206, 278), (207, 279), (223, 224, 225, 262, 263, 264), (226, 261),
    (227, 260), (228, 259), (229, 258), (230, 257), (231, 256), (232, 255), (233, 254), (236, 253),
    (237, 252), (239, 240), (242, 248, 249), (243, 250), (244, 247), (364, 409), (365, 408),
    (377, 400), (381, 397), (382, 395), (384, 393), (386, 391),
)  # fmt: skip
_SCENE_OF = {number: scene[0] for scene in _SCENES for number in scene}


class SourceError(DatasetError):
    """A published data set cannot be taken as it is; the message names what to mend."""


@dataclass(frozen=True)
class Publisher:
    """Who made a data set; ``key`` is its folder and its ``source`` in the manifest."""

    key: str
    licence: str
    citation: str


PBC = Publisher(
    "pbc",
    "CC BY 4.0",
    "A. Acevedo et al., A dataset of microscopic peripheral blood cell images for development "
    "of automatic recognition systems, Data in Brief 30 (2020) 105474",
)
BCCD = Publisher("bccd", "MIT", "BCCD dataset, https://github.com/Shenggan/BCCD_Dataset")


@dataclass(frozen=True)
class Prepared:
    """What was written: the manifest's new rows, and what was left out and why."""

    publisher: Publisher
    rows: list[dict[str, str]]
    left_out: list[str]
    remark: str = ""

    def summary(self) -> str:
        """Return the counts by label and split as a table, then licence and citation."""
        splits = (*SPLITS, "other")
        counts = Counter((row["label"], row["split"]) for row in self.rows)
        totals = Counter(row["split"] for row in self.rows)
        lines = [
            self._line(self.publisher.key, splits),
            *(
                self._line(label, (str(counts[label, split]) for split in splits))
                for label in sorted({label for label, _ in counts})
            ),
            self._line("together", (str(totals[split]) for split in splits)),
        ]
        lines += ["", self.remark] if self.remark else [""]
        lines += [f"licence: {self.publisher.licence}", f"cite: {self.publisher.citation}"]
        return "\n".join(lines)

    @staticmethod
    def _line(first: str, cells: Iterable[str]) -> str:
        return f"{first:<12}" + "".join(f"{cell:>8}" for cell in cells)


@dataclass(frozen=True)
class _Entry:
    """A picture of a source, and what the source says of it; no ``split``: it is to be drawn."""

    member: str
    name: str
    label: str
    group: str
    split: str = ""
    boxes: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Listing:
    publisher: Publisher
    entries: list[_Entry]
    left_out: list[str]
    remark: str = ""


def prepare(source: Path, out: Path) -> Prepared:
    """Copy the pictures of ``source`` to ``out``, byte for byte, and list them in its manifest.

    ``out`` is new, empty, or a data folder without this source, which then gets it as well. The
    manifest is replaced last, by a rename: until then ``out`` reads as it did.

    Raises:
        SourceError: no known data set, labels that cannot be relied on, an archive that is
            damaged or reaches outside itself, or an ``out`` that holds something else.
        DatasetError: ``out`` is a data folder that cannot be read.
    """
    columns, before = _existing(out)
    with _opened(source) as store:
        listing = _list(store, source)
        key = listing.publisher.key
        if (out / key).exists() or key in {row["source"] for row in before}:
            raise SourceError(f"{out} holds {key} already: choose another folder, or remove it")
        made = not out.exists()
        aside = out / f".{key}.{os.getpid()}.new"
        aside.mkdir(parents=True)
        try:
            rows, left_out = _copy(store, listing, aside)
            _write_manifest(aside / "manifest.csv", COLUMNS, rows)
            read_dataset(aside)  # what could not be trained on never gets its name
            _write_manifest(aside / "manifest.csv", columns, [*before, *rows])
            _publish(aside, out, key)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if made and not any(out.iterdir()):
                out.rmdir()
    return Prepared(listing.publisher, rows, left_out, listing.remark)


def _existing(out: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Return the columns and rows of the data folder; there are no rows in a new one."""
    manifest = out / "manifest.csv"
    if manifest.is_file():
        read_dataset(out)
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        own = list(reader.fieldnames or ())
        return own + [column for column in COLUMNS if column not in own], rows
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SourceError(f"{out} is neither new nor empty, nor a folder with a manifest.csv")
    return COLUMNS, []


def _write_manifest(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _publish(aside: Path, out: Path, key: str) -> None:
    (aside / key).rename(out / key)
    try:
        (aside / "manifest.csv").replace(out / "manifest.csv")
    except BaseException:
        (out / key).rename(aside / key)
        raise


# ---- the pictures: read once, judged, and put in their places


@dataclass(frozen=True)
class _File:
    """A picture that can be decoded; ``digest`` is the SHA-256 of its bytes."""

    place: Path
    width: int
    height: int
    digest: str


def _copy(store: _Store, listing: _Listing, aside: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return the manifest's rows, and what was left out and why."""
    files, unreadable = _receive(store, {entry.member for entry in listing.entries}, aside)
    readable = [entry for entry in listing.entries if entry.member in files]
    kept, doubles = _without_doubles(readable, files)
    _refuse_missing_classes(kept)
    key = listing.publisher.key
    rows = [_place(entry, files[entry.member], key, aside) for entry in _drawn(kept)]
    rows.sort(key=lambda row: row["path"])
    return rows, [*listing.left_out, *unreadable, *doubles]


def _receive(
    store: _Store, members: Collection[str], aside: Path
) -> tuple[dict[str, _File], list[str]]:
    incoming = aside / "incoming"
    incoming.mkdir()
    files, unreadable = {}, []
    for number, (member, data) in enumerate(store.read(members)):
        place = incoming / str(number)
        place.write_bytes(data)
        try:
            width, height = load_upright(place).size
        except DatasetError as error:
            reason = str(error.__cause__).replace(f" {str(place)!r}", "")
            unreadable.append(f"{member}: unreadable ({reason})")
        else:
            files[member] = _File(place, width, height, hashlib.sha256(data).hexdigest())
    return files, unreadable


def _place(entry: _Entry, file: _File, key: str, aside: Path) -> dict[str, str]:
    """Move the picture to where it belongs; return its row."""
    path = f"{key}/{entry.split}/{entry.label}/{entry.name}"
    if (aside / path).exists():
        raise SourceError(f"{entry.member}: another picture has the name {entry.name} already")
    (aside / path).parent.mkdir(parents=True, exist_ok=True)
    file.place.rename(aside / path)
    return {
        "path": path,
        "source": key,
        "split": entry.split,
        "label": entry.label,
        "group": entry.group,
        "width": str(file.width),
        "height": str(file.height),
        "wbc_boxes": entry.boxes,
        "note": entry.note,
    }


def _without_doubles(
    entries: Iterable[_Entry], files: Mapping[str, _File]
) -> tuple[list[_Entry], list[str]]:
    """Keep one file of each content, and none where its labels differ: neither can be trusted."""
    alike: dict[str, list[_Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.member):
        alike[files[entry.member].digest].append(entry)
    kept, left_out = [], []
    for first, *others in alike.values():
        if {entry.label for entry in others} <= {first.label}:
            note = "; ".join(f"same file as {entry.member}" for entry in others)
            kept.append(replace(first, note=note))
            left_out += [f"{entry.member}: same file as {first.member}" for entry in others]
        else:
            names = " and ".join(f"{entry.member} as {entry.label}" for entry in (first, *others))
            left_out += [
                f"{e.member}: one file under two labels, {names}" for e in (first, *others)
            ]
    return kept, left_out


def _refuse_missing_classes(entries: Iterable[_Entry]) -> None:
    present = {entry.label for entry in entries}
    missing = [name for name in CLASSES if name not in present]
    if missing:
        raise SourceError(f"no picture of {', '.join(missing)}: the data set is not whole")


def _drawn(entries: Sequence[_Entry]) -> list[_Entry]:
    """Draw a split where the source brings none: 70, 10 and 20 % of the groups of each label."""
    groups: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if not entry.split:
            groups[entry.label].add(entry.group)
    split_of = {}
    for names in groups.values():
        # a shuffle that is the same on every machine and run
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        for position, name in enumerate(ordered):
            share = position / len(ordered)
            split_of[name] = "train" if share < 0.7 else "val" if share < 0.8 else "test"
    return [e if e.split else replace(e, split=split_of[e.group]) for e in entries]


# ---- what each publisher hands out


def _list(store: _Store, source: Path) -> _Listing:
    pictures = [n for n in store.names if PurePosixPath(n).suffix.lower() in PICTURE_SUFFIXES]
    pbc = [n for n in pictures if _folder(n) in _PBC_FOLDERS and _PBC_NAME.fullmatch(_file(n))]
    fields = [name for name in pictures if _FIELD.fullmatch(_file(name))]
    copies = [name for name in pictures if _COPY.fullmatch(name)]
    if pbc and (fields or copies):
        raise SourceError(f"{source} holds PBC and BCCD together: give one after the other")
    if pbc:
        return _list_pbc(pictures, {PurePosixPath(name).parent.parent for name in pbc})
    if fields:
        return _list_fields(store, fields)
    if copies:
        return _list_copies(copies)
    inner = [n for n in store.names if n.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))]
    hint = f"; it holds {inner[0]}, which may: unpack it and give that" if inner else ""
    raise SourceError(f"{source} {_UNKNOWN}{hint}")


def _file(name: str) -> str:
    return PurePosixPath(name).name


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name.lower()


def _list_pbc(pictures: Iterable[str], roots: Collection[PurePosixPath]) -> _Listing:
    entries, unknown, left_out = [], set(), []
    for member in pictures:
        path = PurePosixPath(member)
        if _folder(member) in _PBC_FOLDERS:
            prefix = path.name.split("_", 1)[0].upper()
            label = _PBC_FOLDERS[_folder(member)]
            if label == "IG" and prefix in _IMMATURE:
                label = prefix
            split = "" if label in CLASSES else "other"
            entries.append(_Entry(member, path.name, label, f"PBC_{path.stem}", split))
        elif path.parent.parent in roots and path.parent not in roots:
            unknown.add(str(path.parent))
        else:
            left_out.append(f"{member}: in no class folder")
    if unknown:
        raise SourceError(_named("folders of no known class", sorted(unknown)))
    _refuse_missing_classes(entries)
    return _Listing(PBC, entries, left_out)


def _list_fields(store: _Store, fields: Iterable[str]) -> _Listing:
    labels = _read_labels(store)
    boxes, left_out = _read_boxes(store)
    entries = []
    there = set()
    for member in fields:
        number = _number(_FIELD, member)
        there.add(number)
        if number not in labels:
            left_out.append(f"{member}: no row of labels.csv names it")
            continue
        label = labels[number]
        split = "test" if number in _TEST_FIELDS else "train"
        group = f"bccd_scene_{_SCENE_OF.get(number, number):05}"
        entries.append(
            _Entry(
                member,
                _file(member),
                label,
                group,
                split if label in CLASSES else "other",
                boxes.get(number, ""),
            )
        )
    for number in sorted((boxes.keys() | labels.keys()) - there):
        if number in boxes or labels[number] != "OTHER":  # neither boxed nor labelled: no loss
            by = "annotated" if number in boxes else f"labelled {labels[number]}"
            left_out.append(f"BloodImage_{number:05}: {by}, and not there")
    return _Listing(BCCD, entries, left_out)


def _number(pattern: re.Pattern[str], name: str) -> int:
    match = pattern.fullmatch(_file(name))
    assert match
    return int(match[1])


def _read_labels(store: _Store) -> dict[int, str]:
    """Return each field's label: one of ``CLASSES``, BASOPHIL, MULTI, or OTHER for an empty one."""
    labels: dict[int, str] = {}
    problems = []
    for name, data in store.read({n for n in store.names if _file(n).lower() == "labels.csv"}):
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
        if not {"Image", "Category"} <= set(reader.fieldnames or ()):
            continue
        for row in reader:
            kinds = [kind.strip().upper() for kind in (row["Category"] or "").split(",")]
            label = "MULTI" if len(kinds) > 1 else kinds[0] or "OTHER"
            if not (row["Image"] or "").isdecimal():
                problems.append(f"{name}, line {reader.line_num}: {row['Image']!r} is no number")
            elif not set(kinds) <= {*CLASSES, "BASOPHIL"} and label != "OTHER":
                problems.append(f"{name}, line {reader.line_num}: {row['Category']!r}")
            elif labels.setdefault(int(row["Image"]), label) != label:
                problems.append(f"{name}, line {reader.line_num}: another label elsewhere")
    if problems:
        raise SourceError(_named("rows of labels that cannot be relied on", problems))
    if not labels:
        raise SourceError(_NO_LABELS)
    return labels


def _read_boxes(store: _Store) -> tuple[dict[int, str], list[str]]:
    """Return the boxes of each field's white cells, and what cannot be read of them."""
    boxes: dict[int, list[str]] = {}
    problems = []
    for name, data in store.read({n for n in store.names if _ANNOTATION.fullmatch(_file(n))}):
        found = boxes.setdefault(_number(_ANNOTATION, name), [])
        try:
            for cell in ET.fromstring(data).iter("object"):  # noqa: S314  # expat bounds entities
                if cell.findtext("name", "").strip() == "WBC":
                    box = _box(cell)
                    found += [] if box in found else [box]
        except (ET.ParseError, ValueError) as error:
            problems.append(f"{name}: boxes from here on are left out ({error})")
    return {number: ";".join(found) for number, found in boxes.items()}, problems


def _box(cell: ET.Element) -> str:
    edges = ("xmin", "ymin", "xmax", "ymax")
    xmin, ymin, xmax, ymax = (round(float(cell.findtext(f"bndbox/{edge}", ""))) for edge in edges)
    if not (0 <= xmin < xmax and 0 <= ymin < ymax):
        raise ValueError(f"{xmin} {ymin} {xmax} {ymax} is no box")
    return f"{xmin} {ymin} {xmax} {ymax}"


def _list_copies(copies: Iterable[str]) -> _Listing:
    """List the copies; TRAIN and TEST share no field, and which of a class is whose is not known.

    So all that a class has on one side is one group, and none of it can be set apart to validate.
    """
    entries, unknown = [], set()
    for member in copies:
        match = _COPY.fullmatch(member)
        assert match
        folder, label, name = match.groups()
        split = "train" if folder == "TRAIN" else "test"
        if label in CLASSES:
            group = f"bccd_copies_{split}_{label}"
            entries.append(_Entry(member, f"{folder}{name}", label, group, split))
        else:
            unknown.add(str(PurePosixPath(member).parent))
    if unknown:
        raise SourceError(_named("folders of no known class", sorted(unknown)))
    return _Listing(BCCD, entries, [], _COPIES_REMARK)


def _named(title: str, lines: Sequence[str]) -> str:
    return f"{len(lines)} {title}:\n  " + "\n  ".join(lines)


# ---- folders and archives alike


class _Store(Protocol):
    """Files under relative names, with ``/``; the names are all inside."""

    names: list[str]

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the files asked for, in the order in which reading them is quick."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        files = (path for path in root.rglob("*") if path.is_file())
        self.names = _own(path.relative_to(root).as_posix() for path in files)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in self.names:
            if name in names:
                yield name, (self._root / name).read_bytes()


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        for info in archive.infolist():
            _refuse_escape(info.filename, link=stat.S_ISLNK(info.external_attr >> 16))
        self._members = {_plain(i.filename): i for i in archive.infolist() if not i.is_dir()}
        self.names = _own(self._members)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in self.names:
            if name in names:
                with _unpacking(name):
                    data = self._archive.read(self._members[name])
                yield name, data


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        for member in archive.getmembers():
            _refuse_escape(member.name, link=not (member.isfile() or member.isdir()))
        self._members = {_plain(m.name): m for m in archive.getmembers() if m.isfile()}
        self.names = _own(self._members)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        wanted = set(self.names).intersection(names)
        for name, member in self._members.items():  # as they lie: to seek back is to unpack again
            if name in wanted:
                with _unpacking(name):
                    file = self._archive.extractfile(member)
                    assert file
                    data = file.read()
                yield name, data


@contextmanager
def _opened(source: Path) -> Iterator[_Store]:
    """Open a folder or an archive, told by its content."""
    with ExitStack() as stack:
        store: _Store
        if source.is_dir():
            store = _Folder(source)
        elif not source.is_file():
            raise SourceError(f"there is no {source}")
        elif tarfile.is_tarfile(source):  # first: a tar may end in a zip
            with _unpacking(source):
                store = _Tar(stack.enter_context(tarfile.open(source)))
        elif zipfile.is_zipfile(source):
            with _unpacking(source):
                store = _Zip(stack.enter_context(zipfile.ZipFile(source)))
        else:
            raise SourceError(f"{source} is neither a folder nor a .zip or .tar(.gz) archive")
        yield store


@contextmanager
def _unpacking(what: Path | str) -> Iterator[None]:
    """Say in a sentence what the unpackers raise: damage, a password, an unknown packing."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
    ) as error:
        raise SourceError(f"{what} cannot be unpacked: {error}") from error


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


def _own(names: Iterable[str]) -> list[str]:
    """Sort out what macOS puts into archives beside each file."""
    return sorted(
        name
        for name in names
        if "__MACOSX" not in PurePosixPath(name).parts
        and not _file(name).startswith("._")
        and _file(name) != ".DS_Store"
    )


def _refuse_escape(name: str, *, link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if link or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise SourceError(f"the archive's {name!r} leads outside it: do not trust this archive")
