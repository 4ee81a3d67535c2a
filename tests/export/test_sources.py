"""What publishers hand out becomes a data folder, and what is wrong with it is said by name."""

from __future__ import annotations

import csv
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import sources
from export.cli import main
from export.dataset import DatasetError, read_dataset, select
from export.sources import SourceError, prepare
from gateway.contract import CLASSES

Files = dict[str, bytes]

ROOT = "PBC_dataset_normal_DIB"
PREFIXES = {
    "basophil": "BA",
    "eosinophil": "EO",
    "erythroblast": "ERB",
    "ig": "IG",
    "lymphocyte": "LY",
    "monocyte": "MO",
    "neutrophil": "BNE",
    "platelet": "PLATELET",
}
KINDS = {0: "NEUTROPHIL", 1: "NEUTROPHIL", 9: "EOSINOPHIL", 20: "LYMPHOCYTE", 40: "MONOCYTE"}


def picture(number: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A tiny plain picture; another number, another content."""
    buffer = io.BytesIO()
    colour = (number % 256, number // 256, 90)
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def pbc(each: int = 2) -> Files:
    return {
        f"{ROOT}/{folder}/{prefix}_{number}.jpg": picture(1000 * place + number)
        for place, (folder, prefix) in enumerate(PREFIXES.items())
        for number in range(each)
    }


def labels(kinds: dict[int, str], head: str = ",Image,Category") -> bytes:
    """The publisher's file has a first column without a name; other hands leave it out."""
    mark = "," if head.startswith(",") else ""
    return "\n".join([head, *(f'{mark}{n},"{kind}"' for n, kind in kinds.items())]).encode()


def annotation(*cells: tuple[str, str]) -> bytes:
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(
            f"<{edge}>{value}</{edge}>"
            for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
        )
        + "</bndbox></object>"
        for name, box in cells
    )
    return f"<annotation>{objects}</annotation>".encode()


def bccd(kinds: dict[int, str] = KINDS, root: str = "BCCD_Dataset-master/BCCD") -> Files:
    files = {f"{root}/JPEGImages/BloodImage_{n:05}.jpg": picture(n) for n in kinds}
    for n in kinds:
        cells = (("RBC", "5 5 9 9"), ("WBC", f"{n} 1 {n + 2} 4"), ("Platelets", "1 1 2 2"))
        files[f"{root}/Annotations/BloodImage_{n:05}.xml"] = annotation(*cells)
    return files | {f"{root}/labels.csv": labels(kinds)}


def copies(folders: Iterable[str] = ("TRAIN", "TEST", "TEST_SIMPLE")) -> Files:
    return {
        f"dataset2-master/dataset2-master/images/{folder}/{name}/_{n}_{n + 7}.jpeg": picture(
            100 * place + 10 * label + n
        )
        for place, folder in enumerate(folders)
        for label, name in enumerate(CLASSES)
        for n in range(2)
    }


def as_folder(files: Files, path: Path) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(files: Files, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(files: Files, path: Path) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


FORMS: dict[str, Callable[[Files, Path], Path]] = {
    "folder": as_folder,
    "a.zip": as_zip,
    "a.tar": as_tar,
    "a.tar.gz": as_tar,
    "no suffix": as_zip,
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def take(tmp_path: Path, out: Path) -> Callable[[Files], sources.Prepared]:
    """Prepare files from a zip archive."""

    def prepared(files: Files) -> sources.Prepared:
        return prepare(as_zip(files, tmp_path / "source.zip"), out)

    return prepared


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as rows:
        return list(csv.DictReader(rows))


def by_name(out: Path) -> dict[str, dict[str, str]]:
    return {Path(row["path"]).name: row for row in manifest(out)}


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# ---- the forms


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("files", [pbc(), bccd(), copies()], ids=["pbc", "bccd", "copies"])
def test_every_form_gives_the_same_data_folder(form: str, files: Files, tmp_path, out) -> None:
    """Folder, zip and tar; told by content; every picture is copied byte for byte."""
    found = prepare(FORMS[form](files, tmp_path / form), out)
    expected = prepare(as_folder(files, tmp_path / "expected"), tmp_path / "expected data")
    assert found == expected
    assert tree(out) == tree(tmp_path / "expected data")
    handed_out = {data for name, data in files.items() if name.endswith(("jpg", "jpeg"))}
    assert {d for name, d in tree(out).items() if name != "manifest.csv"} == handed_out
    assert found.left_out == []
    assert {row["path"] for row in manifest(out)} | {"manifest.csv"} == tree(out).keys()
    assert {p.source for p in read_dataset(out)} == {found.publisher.key}


def test_the_manifest_has_every_column(take, out) -> None:
    """Sizes are read from the pictures."""
    files = pbc()
    files[f"{ROOT}/monocyte/MO_5.jpg"] = picture(77, (13, 11))
    take(files)
    row = by_name(out)["MO_5.jpg"]
    assert tuple(row) == sources.COLUMNS
    assert row["path"] == f"pbc/{row['split']}/MONOCYTE/MO_5.jpg"
    assert (row["width"], row["height"], row["wbc_boxes"], row["note"]) == ("13", "11", "", "")


@pytest.mark.parametrize("name", ["photo.jpg", "a/neutrophil/1.jpg", "readme.txt"])
def test_an_unknown_source_is_told_what_the_known_ones_look_like(name: str, take, out) -> None:
    """In one sentence; and nothing is made."""
    with pytest.raises(SourceError, match=r"none of the known .*PBC.*BCCD.*Blood Cell") as caught:
        take({name: picture(1)})
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_an_archive_in_the_archive_is_pointed_at(take) -> None:
    """Mendeley Data packs all files of a data set once more."""
    with pytest.raises(SourceError, match=rf"holds x/{ROOT}\.zip, which may: unpack it"):
        take({f"x/{ROOT}.zip": b""})


def test_two_data_sets_at_once_are_refused(take) -> None:
    """It would not be clear which one's labels.csv and pictures are meant."""
    with pytest.raises(SourceError, match="PBC and BCCD together"):
        take(pbc() | bccd())


def test_what_is_no_archive_is_refused(tmp_path: Path, out: Path) -> None:
    """And so is nothing."""
    (tmp_path / "file").write_bytes(b"no archive")
    with pytest.raises(SourceError, match=r"file is neither a folder nor a \.zip"):
        prepare(tmp_path / "file", out)
    with pytest.raises(SourceError, match=r"there is no .*nothing"):
        prepare(tmp_path / "nothing", out)


def test_a_damaged_archive_is_told_and_leaves_nothing(tmp_path: Path, out: Path) -> None:
    """Half a download unpacks for a while."""
    path = as_zip(pbc(), tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT", len(data) // 2) + 6] ^= 255
    path.write_bytes(data)
    with pytest.raises(SourceError, match="cannot be unpacked: Bad CRC-32"):
        prepare(path, out)
    assert not out.exists()
    path = as_tar(pbc(), tmp_path / "a.tar.gz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match="cannot be unpacked"):
        prepare(path, out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["../EO_1.jpg", "/tmp/EO_1.jpg", "a/../../EO_1.jpg", "C:/EO.jpg",
                                  "..\\EO_1.jpg"])  # fmt: skip
@pytest.mark.parametrize("form", ["a.zip", "a.tar"])
def test_members_that_escape_are_refused(name: str, form: str, tmp_path: Path, out: Path) -> None:
    """Whatever else the archive holds."""
    path = tmp_path / form
    if form == "a.zip":
        as_zip(pbc() | {name: b""}, path)
    else:
        with tarfile.open(as_tar(pbc(), path), "a") as archive:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(SourceError, match="leads outside it"):
        prepare(path, out)
    assert not out.exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, None])
def test_links_in_archives_are_refused(kind: bytes | None, tmp_path: Path, out: Path) -> None:
    """None stands for a link in a zip."""
    if kind is None:
        path = as_zip(pbc(), tmp_path / "a.zip")
        link = zipfile.ZipInfo(f"{ROOT}/eosinophil/EO_9.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "a") as zipped:
            zipped.writestr(link, "/etc/passwd")
    else:
        path = as_tar(pbc(), tmp_path / "a.tar")
        member = tarfile.TarInfo(f"{ROOT}/eosinophil/EO_9.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        with tarfile.open(path, "a") as tarred:
            tarred.addfile(member)
    with pytest.raises(SourceError, match=r"EO_9\.jpg' leads outside it"):
        prepare(path, out)


# ---- PBC


def test_pbc_labels_are_the_folders_and_for_immature_cells_the_names(take, out) -> None:
    """What the four classes do not cover is kept apart, under the label it has."""
    files = pbc(1)
    for number, prefix in enumerate(("MMY", "MY", "PMY")):
        files[f"{ROOT}/ig/{prefix}_7.jpg"] = picture(9000 + number)
    for number, prefix in enumerate(("SNE", "NEUTROPHIL", "NEU")):
        files[f"{ROOT}/neutrophil/{prefix}_8.jpg"] = picture(9100 + number)
    take(files)
    found = by_name(out)
    for name, label in {
        "BA_0": "BASOPHIL", "ERB_0": "ERB", "IG_0": "IG", "PLATELET_0": "PLATELET",
        "MMY_7": "MMY", "MY_7": "MY", "PMY_7": "PMY",
    }.items():  # fmt: skip
        assert (found[f"{name}.jpg"]["label"], found[f"{name}.jpg"]["split"]) == (label, "other")
    for name, label in {
        "EO_0": "EOSINOPHIL", "LY_0": "LYMPHOCYTE", "MO_0": "MONOCYTE", "BNE_0": "NEUTROPHIL",
        "SNE_8": "NEUTROPHIL", "NEUTROPHIL_8": "NEUTROPHIL", "NEU_8": "NEUTROPHIL",
    }.items():  # fmt: skip
        assert found[f"{name}.jpg"]["label"] == label
        assert found[f"{name}.jpg"]["split"] != "other"
    assert found["EO_0.jpg"]["group"] == "PBC_EO_0"


def test_pbc_is_split_by_class_and_alike_everywhere(take, tmp_path: Path, out: Path) -> None:
    """70, 10 and 20 % of each class; a picture's split depends on the names alone."""
    files = pbc(20)
    take(files)
    found = manifest(out)
    counts = Counter((row["label"], row["split"]) for row in found)
    for label in CLASSES:
        assert [counts[label, split] for split in ("train", "val", "test")] == [14, 2, 4]
    other = {name: files[name] for name in reversed(files)}
    other = {name.replace(ROOT, "elsewhere"): data for name, data in other.items()}
    prepare(as_folder(other, tmp_path / "again"), tmp_path / "again data")
    assert manifest(tmp_path / "again data") == found
    assert len({p.group for p in select(read_dataset(out), "train")}) == 56


def test_pbc_without_one_of_the_four_is_refused(take, out) -> None:
    """Also where the folder is there, and nothing in it can be read."""
    files = pbc()
    empty = {n: b"" if "/monocyte/" in n else d for n, d in files.items()}
    without = {n: d for n, d in files.items() if "/monocyte/" not in n}
    for faulty in (empty, without):
        with pytest.raises(SourceError, match="no picture of MONOCYTE: the data set is not whole"):
            take(faulty)
        assert not out.exists()
    take({n: d for n, d in files.items() if "/ig/" not in n})  # not one of the four


def test_unknown_class_folders_are_refused_by_name(take) -> None:
    """A cell may be one of the four under another name."""
    files = pbc() | {f"{ROOT}/{folder}/X_1.jpg": picture(1) for folder in ("blast", "band")}
    with pytest.raises(SourceError, match=rf"(?s)2 folders .*{ROOT}/band\n  {ROOT}/blast$"):
        take(files)


def test_a_picture_in_no_class_folder_is_named(take, out) -> None:
    """It has no label to be refused for."""
    found = take(pbc() | {f"{ROOT}/example.jpg": picture(1), "cover.png": picture(2)})
    assert found.left_out == [
        f"{ROOT}/example.jpg: in no class folder",
        "cover.png: in no class folder",
    ]
    assert len(manifest(out)) == 16


def test_unreadable_pictures_are_named_and_left_out(take, out) -> None:
    """PBC has .DS_169665.jpg among the neutrophils, which is no picture; half a one is none."""
    files = pbc()
    buffer = io.BytesIO()
    Image.effect_noise((60, 60), 90).save(buffer, "JPEG")
    files[f"{ROOT}/neutrophil/.DS_169665.jpg"] = b"\0\0\0\1Bud1"
    files[f"{ROOT}/neutrophil/BNE_9.jpg"] = buffer.getvalue()[:-300]
    found = take(files)
    assert [line.split(" (")[0] for line in found.left_out] == [
        f"{ROOT}/neutrophil/.DS_169665.jpg: unreadable",
        f"{ROOT}/neutrophil/BNE_9.jpg: unreadable",
    ]
    assert str(out) not in "".join(found.left_out)
    assert len(tree(out)) == 17


def test_what_macos_adds_is_passed_over(take, out) -> None:
    """It is nobody's picture: naming it would bury what matters."""
    files = pbc()
    extras = {f"__MACOSX/{name}": b"x" for name in files}
    extras |= {f"{ROOT}/ig/._IG_1.jpg": b"x", f"{ROOT}/.DS_Store": b"x"}
    assert take(files | extras).left_out == []


def test_of_two_equal_files_one_is_left_out(take, out) -> None:
    """So they cannot be in different splits; both are named."""
    files = pbc()
    files[f"{ROOT}/eosinophil/EO_5.jpg"] = files[f"{ROOT}/eosinophil/EO_1.jpg"]
    found = take(files)
    first, second = f"{ROOT}/eosinophil/EO_1.jpg", f"{ROOT}/eosinophil/EO_5.jpg"
    assert found.left_out == [f"{second}: same file as {first}"]
    assert by_name(out)["EO_1.jpg"]["note"] == f"same file as {second}"
    assert "EO_5.jpg" not in by_name(out)


def test_one_file_under_two_labels_is_left_out_altogether(take, out) -> None:
    """PBC has EO_225902 and BNE_191112: one of them is wrong, and nobody can say which."""
    files = pbc()
    files[f"{ROOT}/neutrophil/BNE_1.jpg"] = files[f"{ROOT}/eosinophil/EO_1.jpg"]
    found = take(files)
    assert len(found.left_out) == 2
    for line, name in zip(found.left_out, ("EO_1", "BNE_1"), strict=True):
        assert f"/{name}.jpg: one file under two labels" in line
        assert f"{name}.jpg" not in by_name(out)


def test_two_pictures_of_one_name_are_refused(take, out) -> None:
    """One would be written over the other."""
    files = pbc()
    files["more/eosinophil/EO_1.jpg"] = picture(60_000)
    with pytest.raises(SourceError, match=r"another picture has the name EO_1\.jpg already"):
        take(files)
    assert not out.exists()


# ---- BCCD and Blood Cell Images


@pytest.mark.parametrize("head", [",Image,Category", "Image,Category", "\ufeffImage,Category"])
def test_fields_have_the_label_of_their_row(head: str, take, out) -> None:
    """More than one cell is MULTI, no label is OTHER; neither is for training."""
    kinds = KINDS | {
        8: "BASOPHIL",
        10: "NEUTROPHIL, EOSINOPHIL",
        31: "NEUTROPHIL,NEUTROPHIL",
        117: "",
    }
    take(bccd(kinds) | {"BCCD_Dataset-master/BCCD/labels.csv": labels(kinds, head)})
    found = {name: (row["label"], row["split"]) for name, row in by_name(out).items()}
    assert found == {
        "BloodImage_00000.jpg": ("NEUTROPHIL", "train"),
        "BloodImage_00001.jpg": ("NEUTROPHIL", "test"),
        "BloodImage_00009.jpg": ("EOSINOPHIL", "train"),
        "BloodImage_00020.jpg": ("LYMPHOCYTE", "train"),
        "BloodImage_00040.jpg": ("MONOCYTE", "train"),
        "BloodImage_00008.jpg": ("BASOPHIL", "other"),
        "BloodImage_00010.jpg": ("MULTI", "other"),
        "BloodImage_00031.jpg": ("MULTI", "other"),
        "BloodImage_00117.jpg": ("OTHER", "other"),
    }


def test_the_published_split_is_the_scripts() -> None:
    """What train_test_split(test_size=0.2, random_state=10) draws of the fields with one label.

    The numbers below have no label, several, or (00116) no picture.
    """
    without = {
        25, 27, 51, 60, 61, 80, 84, 85, 102, 105, 116, 117, 118, 119, 121, 122, 128, 129, 131, 138,
        146, 151, 153, 155, 173, 181, 185, 186, 188, 194, 213, 238, 286, 306, 316, 321, 328, 358,
        363, 373, 380, 394, 399, 401, 406,
    }  # fmt: skip
    several = {10, 31, 34, 43, 44, 65, 70, 103, 176, 193, 195, 242, 249, 313, 374}
    labelled = [number for number in range(411) if number not in without | several]
    drawn = np.random.RandomState(10).permutation(len(labelled))
    test = drawn[: -(-len(labelled) // 5)]
    assert {labelled[position] for position in test} == sources._TEST_FIELDS


def test_fields_of_one_scene_are_one_group(take, out) -> None:
    """So that validation, which is drawn by group, is not of cells that training shows."""
    kinds = KINDS | {226: "EOSINOPHIL", 261: "EOSINOPHIL", 204: "EOSINOPHIL"}
    take(bccd(kinds))
    groups = {name: row["group"] for name, row in by_name(out).items()}
    assert groups["BloodImage_00226.jpg"] == groups["BloodImage_00261.jpg"] == "bccd_scene_00226"
    assert len(set(groups.values())) == len(groups) - 1
    numbers = [number for scene in sources._SCENES for number in scene]
    assert len(numbers) == len(set(numbers)) == 72


def test_the_photographs_own_manifest_comes_out_again(photographs: Path, tmp_path, out) -> None:
    """Fields, labels, boxes and groups as in the folder that the shipped weights learnt from."""
    with (photographs / "manifest.csv").open(newline="") as file:
        rows = {Path(r["path"]).stem[-5:]: r for r in csv.DictReader(file) if r["source"] == "bccd"}
    files, kinds = {}, {}
    for number, row in rows.items():
        files[f"JPEGImages/BloodImage_{number}.jpg"] = (photographs / row["path"]).read_bytes()
        cells = [("WBC", box) for box in row["wbc_boxes"].split(";")]
        files[f"Annotations/BloodImage_{number}.xml"] = annotation(*cells)
        kind = {"MULTI": "NEUTROPHIL, NEUTROPHIL", "OTHER": ""}.get(row["label"], row["label"])
        kinds[int(number)] = kind
    prepare(as_folder(files | {"labels.csv": labels(kinds)}, tmp_path / "bccd"), out)
    expected = [row | {"note": ""} for row in rows.values()]
    assert sorted(manifest(out), key=lambda r: r["path"]) == sorted(
        expected, key=lambda r: r["path"]
    )


def test_boxes_are_those_of_white_cells(take, out) -> None:
    """All of them, in the annotation's order, each once."""
    files = bccd()
    cells = [("WBC", "4 5 6 7"), ("RBC", "1 1 2 2"), ("WBC", "1 0 2 3"), ("WBC", "4 5 6 7")]
    files["BCCD_Dataset-master/BCCD/Annotations/BloodImage_00009.xml"] = annotation(*cells)
    take(files)
    found = by_name(out)
    assert found["BloodImage_00009.jpg"]["wbc_boxes"] == "4 5 6 7;1 0 2 3"
    assert found["BloodImage_00020.jpg"]["wbc_boxes"] == "20 1 22 4"


@pytest.mark.parametrize("bad", [annotation(("WBC", "3 3 3 9")), annotation(("WBC", "a 3 3 9")),
                                 b"<annotation>"])  # fmt: skip
def test_a_box_that_is_none_is_named(bad: bytes, take, out) -> None:
    """The photograph is kept, without it."""
    files = bccd() | {"BCCD_Dataset-master/BCCD/Annotations/BloodImage_00009.xml": bad}
    (line,) = take(files).left_out
    assert "Annotations/BloodImage_00009.xml: boxes from here on are left out (" in line
    assert by_name(out)["BloodImage_00009.jpg"]["wbc_boxes"] == ""


def test_bccd_without_labels_is_refused(take, out) -> None:
    """The repository has none; a table of something else is none either."""
    files = bccd()
    del files["BCCD_Dataset-master/BCCD/labels.csv"]
    for extra in ({}, {"labels.csv": b"filename,cell_type\nBloodImage_00001.jpg,WBC\n"}):
        with pytest.raises(SourceError, match=r"no labels\.csv .*paultimothymooney/blood-cells"):
            take(files | extra)
    assert not out.exists()


def test_labels_outside_the_list_are_refused_row_by_row(take) -> None:
    """A misspelt neutrophil is one of the four."""
    kinds = KINDS | {50: "NEUTROFIL", 51: "NEUTROPHIL, BAND"}
    rows = labels(kinds) + b"\n,x,NEUTROPHIL\n,0,MONOCYTE"
    with pytest.raises(SourceError, match="4 rows of labels") as caught:
        take(bccd(kinds) | {"BCCD_Dataset-master/BCCD/labels.csv": rows})
    told = str(caught.value)
    for part in ("line 7: 'NEUTROFIL'", "line 8: 'NEUTROPHIL, BAND'", "line 9: 'x' is no number",
                 "line 10: another label elsewhere"):  # fmt: skip
        assert part in told


def test_what_is_labelled_or_annotated_and_not_there_is_named(take, out) -> None:
    """labels.csv calls 00116 a monocyte, and nobody has its picture; empty rows lose nothing."""
    kinds = KINDS | {25: "", 116: "MONOCYTE"}
    files = bccd() | {"BCCD_Dataset-master/BCCD/labels.csv": labels(kinds)}
    files["a/Annotations/BloodImage_00300.xml"] = annotation(("WBC", "1 1 2 2"))
    files["a/JPEGImages/BloodImage_00301.jpg"] = picture(301)
    assert take(files).left_out == [
        "a/JPEGImages/BloodImage_00301.jpg: no row of labels.csv names it",
        "BloodImage_00116: labelled MONOCYTE, and not there",
        "BloodImage_00300: annotated, and not there",
    ]
    assert len(manifest(out)) == len(KINDS)


def test_the_photographs_are_taken_rather_than_their_copies(take, out) -> None:
    """As Kaggle's archive has them side by side, with the labels twice."""
    fields = bccd(root="dataset-master/dataset-master")
    again = {"dataset2-master/dataset2-master/labels.csv": labels(KINDS)}
    take(fields | again | copies())
    assert {Path(row["path"]).name for row in manifest(out)} == {
        f"BloodImage_{number:05}.jpg" for number in KINDS
    }


def test_copies_stay_on_their_side_and_bring_no_validation(take, out) -> None:
    """TRAIN and TEST share no photograph; within a class, nobody knows which copy is whose."""
    found = take(copies())
    for row in manifest(out):
        assert row["split"] == ("train" if Path(row["path"]).name.startswith("TRAIN_") else "test")
    splits: dict[str, set[str]] = {}
    for photograph in read_dataset(out):
        splits.setdefault(photograph.group, set()).add(photograph.split)
    assert len(splits) == 2 * len(CLASSES)
    assert all(len(split) == 1 for split in splits.values())
    assert not select(read_dataset(out), "val")
    assert "none can be set apart to validate" in found.summary()


def test_copies_of_an_unknown_class_are_refused(take) -> None:
    """As with PBC."""
    files = copies() | {"images/TRAIN/BASOPHIL/_0_1.jpeg": picture(1)}
    with pytest.raises(SourceError, match=r"(?s)1 folders .*images/TRAIN/BASOPHIL$"):
        take(files)


# ---- the data folder


def test_a_second_source_joins_the_first(take, out) -> None:
    """The first one's rows stay as they are, columns of its own as well."""
    take(pbc())
    text = (out / "manifest.csv").read_text().splitlines()
    lines = [f"{line},{'stain' if not n else 'MGG'}" for n, line in enumerate(text)]
    (out / "manifest.csv").write_text("\n".join(lines) + "\n")
    before = manifest(out)
    take(bccd())
    rows = manifest(out)
    assert rows[: len(before)] == before
    assert {row["stain"] for row in rows[len(before) :]} == {""}
    assert Counter(p.source for p in read_dataset(out)) == {"pbc": 8, "bccd": 5}
    assert {path.name for path in out.iterdir()} == {"manifest.csv", "pbc", "bccd"}


@pytest.mark.parametrize(("first", "second"), [(pbc(), pbc(3)), (bccd(), copies())])
def test_a_source_is_taken_once(first: Files, second: Files, take, out) -> None:
    """The copies are BCCD's photographs: beside them they would put one into two splits."""
    take(first)
    before = tree(out)
    with pytest.raises(SourceError, match=r"holds (pbc|bccd) already"):
        take(second)
    assert tree(out) == before


def test_an_empty_folder_will_do_and_another_will_not(take, out) -> None:
    """What lies there may be anybody's."""
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SourceError, match="neither new nor empty"):
        take(pbc())
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    take(pbc())
    assert read_dataset(out)


def test_a_data_folder_that_is_broken_is_not_added_to(take, out) -> None:
    """It is told what is wrong with it first."""
    take(pbc())
    next(out.glob("pbc/train/MONOCYTE/*")).unlink()
    with pytest.raises(DatasetError, match="no such file"):
        take(bccd())
    assert not (out / "bccd").exists()


@pytest.mark.parametrize("stopped", ["load_upright", "read_dataset", "Path.replace"])
@pytest.mark.parametrize("beside", [True, False])
def test_an_interrupted_run_leaves_nothing_half(
    stopped: str, beside: bool, take, out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: the folder is as before, and the next run succeeds."""
    if beside:
        take(bccd())
    before = tree(out) if beside else None
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if stopped != "read_dataset" or calls > beside:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if stopped == "Path.replace":
            patch.setattr(Path, "replace", stop)
        else:
            patch.setattr(sources, stopped, stop)
        with pytest.raises(KeyboardInterrupt):
            take(pbc())
    if before is None:
        assert not out.exists()
    else:
        assert tree(out) == before
        assert {path.name for path in out.iterdir()} == {"manifest.csv", "bccd"}
    take(pbc())
    assert {row["source"] for row in manifest(out)} == ({"pbc", "bccd"} if beside else {"pbc"})


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_folder_can_be_read_by_others(take, out) -> None:
    """As any folder that one makes, and not as a temporary one."""
    take(pbc())
    (out.parent / "plain").mkdir()
    expected = (out.parent / "plain").stat().st_mode
    assert {path.stat().st_mode for path in [out, *out.rglob("*")] if path.is_dir()} == {expected}


# ---- the command


def test_the_command_prints_counts_licence_and_citation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, out: Path
) -> None:
    """Status 0, also where a picture was left out: that goes to stderr, with its count."""
    files = pbc(10) | {f"{ROOT}/monocyte/MO_99.jpg": b"no picture"}
    assert main(["data", str(as_zip(files, tmp_path / "pbc.zip")), str(out)]) == 0
    output = capsys.readouterr()
    lines = [line.split() for line in output.out.splitlines()]
    assert lines[0] == ["pbc", "train", "val", "test", "other"]
    assert ["MONOCYTE", "7", "1", "2", "0"] in lines
    assert ["PLATELET", "0", "0", "0", "10"] in lines
    assert ["together", "28", "4", "8", "40"] in lines
    assert output.out.endswith(
        "licence: CC BY 4.0\ncite: A. Acevedo et al., A dataset of microscopic peripheral blood "
        "cell images for development of automatic recognition systems, Data in Brief 30 (2020) "
        "105474\n"
    )
    told = output.err.splitlines()
    assert told[0].startswith(f"{ROOT}/monocyte/MO_99.jpg: unreadable (")
    assert told[1:] == ["left out: 1, each named above"]


def test_nothing_of_tensorflow_is_needed(tmp_path: Path, out: Path) -> None:
    """Data can be made ready on a machine that will never train."""
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; "
        "from export.cli import main; sys.exit(main())"
    )
    source = as_zip(pbc(), tmp_path / "pbc.zip")
    done = subprocess.run([sys.executable, "-c", code, "data", source, out], check=False)
    assert done.returncode == 0
    assert read_dataset(out)


def test_bccd_is_cited_as_mit(take) -> None:
    """Its licence asks for no more than its notice."""
    assert "licence: MIT\ncite: BCCD dataset, https://github.com/Sheng" in take(bccd()).summary()
