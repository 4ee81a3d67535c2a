"""Both layouts are read and split alike everywhere, and bad data is refused by name."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.dataset import (
    NONE_OF_THESE,
    DatasetError,
    Photograph,
    load_input,
    read_dataset,
    read_others,
    refuse_unreadable,
    select,
)
from export.smear import draw_smear
from gateway.contract import CLASSES
from gateway.imaging import read_photograph, to_tensor

COLUMNS = ("path", "source", "split", "label", "group", "wbc_boxes")
Row = dict[str, str]
Folders = Callable[..., Path]


def rows_of(source: str, split: str, each: int = 1, group: str = "") -> list[Row]:
    """``each`` rows of every class; every row is a group of its own unless ``group`` is given."""
    return [
        {
            "path": f"{source}/{split}/{name}-{number}.png",
            "source": source,
            "split": split,
            "label": name,
            "group": group,
            "wbc_boxes": "",
        }
        for name in CLASSES
        for number in range(each)
    ]


def write_manifest(root: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Path:
    """Write the manifest and a tiny picture for every row."""
    for row in rows:
        path = root / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "white").save(path, "PNG")
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root


def splits_of(photographs: list[Photograph]) -> dict[str, set[str]]:
    """Each group's splits."""
    found: dict[str, set[str]] = {}
    for photograph in photographs:
        found.setdefault(photograph.group, set()).add(photograph.split)
    return found


# ---- a manifest


def test_a_manifest_says_everything(tmp_path: Path) -> None:
    """Label, source, split, group and every box are the row's."""
    rows = [*rows_of("pbc", "train"), *rows_of("pbc", "val"), *rows_of("pbc", "test")]
    rows[3] |= {"group": "cell 9", "wbc_boxes": "42 183 277 381;1 2 3 4"}
    found = read_dataset(write_manifest(tmp_path, rows))
    assert found[3] == Photograph(
        tmp_path / rows[3]["path"],
        3,
        "pbc",
        "train",
        "cell 9",
        ((42, 183, 277, 381), (1, 2, 3, 4)),
        kind="NEUTROPHIL",
    )
    assert found[3].box == (42, 183, 277, 381)
    assert found[0].box is None
    assert Counter(p.split for p in found) == {"train": 4, "val": 4, "test": 4}
    assert [p.label for p in select(found, "val")] == [0, 1, 2, 3]


def test_a_row_without_a_group_is_its_own(tmp_path: Path) -> None:
    """An empty group means that no other photograph shows the cell."""
    found = read_dataset(write_manifest(tmp_path, rows_of("pbc", "test", each=2)))
    assert len({p.group for p in found}) == len(found) == 8


def test_cells_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    """Rows of the split `other` are kept out, and listed with what they are for who asks."""
    rows = [*rows_of("pbc", "test"), {**rows_of("pbc", "other")[0], "label": "BASOPHIL"}]
    write_manifest(tmp_path, rows)
    assert {p.split for p in read_dataset(tmp_path)} == {"test"}
    assert [(p.label, p.kind) for p in read_others(tmp_path)] == [(NONE_OF_THESE, "BASOPHIL")]


def test_a_split_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A misspelt split would silently be left out of training."""
    rows = rows_of("pbc", "test")
    rows[2]["split"] = "trian"
    with pytest.raises(DatasetError, match=r"MONOCYTE-0\.png: split 'trian' is not one of"):
        read_dataset(write_manifest(tmp_path, rows))


def test_a_box_that_is_none_is_refused(tmp_path: Path) -> None:
    """Four whole numbers make a box; the row is named."""
    rows = rows_of("pbc", "test")
    rows[0]["wbc_boxes"] = "1 2 3"
    with pytest.raises(DatasetError, match=r"EOSINOPHIL-0\.png: wbc_boxes '1 2 3' is no `xmin"):
        read_dataset(write_manifest(tmp_path, rows))


def test_a_source_without_validation_gets_some_of_its_training_groups(tmp_path: Path) -> None:
    """15 % of each class's groups validate: 3 of 20; another source's own split stays."""
    rows = [*rows_of("bccd", "train", each=20), *rows_of("bccd", "test", each=5)]
    rows += [*rows_of("pbc", "train", each=20), *rows_of("pbc", "val", each=1)]
    found = read_dataset(write_manifest(tmp_path, rows))
    counts = Counter((p.source, p.split, p.label) for p in found)
    for label in range(len(CLASSES)):
        assert counts["bccd", "train", label] == 17
        assert counts["bccd", "val", label] == 3
        assert counts["bccd", "test", label] == 5
        assert counts["pbc", "train", label] == 20
        assert counts["pbc", "val", label] == 1


def test_validation_is_chosen_alike_whatever_the_order_of_rows(tmp_path: Path) -> None:
    """The choice depends on the groups' names alone: on no random state and on no order."""
    rows = rows_of("bccd", "train", each=20)
    first = read_dataset(write_manifest(tmp_path, rows))
    again = read_dataset(write_manifest(tmp_path, rows[::-1]))
    assert splits_of(first) == splits_of(again)
    assert {p.split for p in first} == {"train", "val"}


def test_a_group_never_spans_training_and_validation(tmp_path: Path) -> None:
    """Photographs of one cell move together, also when their labels differ."""
    rows = rows_of("bccd", "train", each=40)
    for number, row in enumerate(rows):
        row["group"] = f"cell {number % 40 // 2}"  # two photographs a class, of all four classes
    found = read_dataset(write_manifest(tmp_path, rows))
    splits = splits_of(found)
    assert all(len(names) == 1 for names in splits.values())
    assert {"val"} in splits.values()


def test_an_unknown_label_is_refused_with_its_row(tmp_path: Path) -> None:
    """The refusal names the row, the label and the classes there are."""
    rows = rows_of("pbc", "test")
    rows[1]["label"] = "PLATELET"
    message = r"1 rows of .*manifest\.csv that .*\n  pbc/test/LYMPHOCYTE-0\.png: label 'PLATELET'"
    with pytest.raises(DatasetError, match=message + ".*NEUTROPHIL"):
        read_dataset(write_manifest(tmp_path, rows))


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    """All of them at once, so that one run tells everything that is to be mended."""
    rows = rows_of("pbc", "test", each=2)
    write_manifest(tmp_path, rows)
    for row in rows[:2]:
        (tmp_path / row["path"]).unlink()
    message = r"2 rows .*\n.*EOSINOPHIL-0\.png: no such file\n.*EOSINOPHIL-1\.png: no such file"
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    """Twenty are shown and the rest counted."""
    rows = rows_of("pbc", "test", each=7)
    for row in rows:
        row["label"] = "?"
    with pytest.raises(DatasetError, match="28 rows") as caught:
        read_dataset(write_manifest(tmp_path, rows))
    assert str(caught.value).endswith("\n  and 8 more")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """A manifest without some columns is told which."""
    write_manifest(tmp_path, rows_of("pbc", "test"), ("path", "label", "split"))
    with pytest.raises(DatasetError, match=r"manifest\.csv lacks the columns group, source$"):
        read_dataset(tmp_path)


# ---- class folders


def test_class_folders_are_split_by_class(class_folders: Folders) -> None:
    """70, 20 and 10 % of each class: 14, 4 and 2 of 20."""
    counts = Counter((p.split, p.label) for p in read_dataset(class_folders(20)))
    for label in range(len(CLASSES)):
        assert [counts[split, label] for split in ("train", "val", "test")] == [14, 4, 2]


def test_class_folders_are_split_alike_wherever_they_lie(
    class_folders: Folders, tmp_path: Path
) -> None:
    """A photograph's split depends on its name in its folder and on nothing else."""
    first = read_dataset(class_folders(20))
    moved = (tmp_path / "photographs").rename(tmp_path / "elsewhere")
    assert splits_of(read_dataset(moved)) == splits_of(first)


def test_class_folders_may_be_lower_case_and_nested(class_folders: Folders) -> None:
    """Names are compared without case, pictures found at any depth, other files passed over."""
    root = class_folders(1)
    (root / "MONOCYTE" / "day 1").mkdir()
    (root / "MONOCYTE" / "0.png").rename(root / "MONOCYTE" / "day 1" / "0.PNG")
    (root / "MONOCYTE").rename(root / "monocyte")
    (root / "monocyte" / "notes.txt").write_text("none")
    found = [p.path for p in read_dataset(root) if p.label == CLASSES.index("MONOCYTE")]
    assert found == [root / "monocyte" / "day 1" / "0.PNG"]


def test_a_folder_of_no_class_is_refused(class_folders: Folders) -> None:
    """The refusal names the folder and the classes."""
    root = class_folders(1)
    (root / "PLATELET").mkdir()
    with pytest.raises(DatasetError, match="PLATELET is none of the class folders EOSINOPHIL, "):
        read_dataset(root)


def test_an_empty_class_is_refused(class_folders: Folders) -> None:
    """All classes without a photograph are named."""
    root = class_folders(2, CLASSES[1:3])
    (root / "NEUTROPHIL").mkdir()
    with pytest.raises(DatasetError, match=r"has no photograph of EOSINOPHIL, NEUTROPHIL$"):
        read_dataset(root)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    """A path with nothing there, or with a file, is told what belongs there."""
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(DatasetError, match=rf"{name} is not a folder: give one with a manif"):
            read_dataset(tmp_path / name)


def test_unreadable_pictures_are_named(class_folders: Folders) -> None:
    """A file that is no picture is found from its header, before hours are spent."""
    root = class_folders(2)
    (root / "MONOCYTE" / "1.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    photographs = read_dataset(root)
    message = r"^1 unreadable pictures \(remove or replace them\):\n  .*MONOCYTE.1\.png: "
    with pytest.raises(DatasetError, match=message):
        refuse_unreadable(photographs)
    refuse_unreadable([p for p in photographs if p.label != CLASSES.index("MONOCYTE")])


# ---- decoding


def turned() -> bytes:
    """A JPEG whose pixels lie on their side, as a telephone stores them."""
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees to look at it
    buffer = io.BytesIO()
    draw_smear("MONOCYTE", 1, 120, 80).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def half_transparent() -> Image.Image:
    picture = draw_smear("MONOCYTE", 1, 60, 50).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def deep() -> Image.Image:
    grey = np.asarray(draw_smear("MONOCYTE", 1, 60, 50).convert("L"))
    return Image.fromarray(grey.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(draw_smear("MONOCYTE", 1, 100, 70), "JPEG"), id="jpeg"),
        pytest.param(encoded(draw_smear("MONOCYTE", 1, 300, 310), "PNG"), id="png"),
        pytest.param(encoded(draw_smear("MONOCYTE", 1, 60, 50).convert("L"), "TIFF"), id="grey"),
        pytest.param(encoded(draw_smear("MONOCYTE", 1, 60, 50).convert("P"), "BMP"), id="palette"),
        pytest.param(encoded(half_transparent(), "PNG"), id="transparent"),
        pytest.param(encoded(deep(), "PNG"), id="16 bit"),
        pytest.param(turned(), id="turned"),
    ],
)
def test_training_and_serving_see_the_same_pixels(data: bytes, tmp_path: Path) -> None:
    """A file is decoded and resized for training exactly as the gateway does it for serving."""
    path = tmp_path / "photograph"
    path.write_bytes(data)
    served = read_photograph(data, 10**6)
    found = load_input(path)
    assert (found.dtype, found.shape) == (np.uint8, (224, 224, 3))
    np.testing.assert_array_equal(found, served.tensor)
    np.testing.assert_array_equal(found, to_tensor(served.picture))
