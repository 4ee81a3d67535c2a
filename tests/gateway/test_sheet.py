"""The printed sheet: what stands on it, and that it is whole in itself."""

import base64
import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from gateway import chart, finding, sheet
from gateway.annotation import load_reference
from gateway.confusion import Confusion
from gateway.differential import (
    ADULTS_ASSUMED,
    NOT_COUNTED,
    Cell,
    Corrected,
    Differential,
    Finding,
    Interval,
    Made,
    Part,
    Remark,
    Share,
    count,
)
from gateway.smear import Photograph, Smear

CLASSES = load_reference().classes
MADE = Made(
    model_name="hemavision",
    model_version=3,
    weights_sha256="9f2c" * 16,
    request_id="5b1e0c6c",
    issued=datetime(2026, 11, 23, 14, 21, 7, tzinfo=UTC),
    ranges="The laboratory's ranges, version 1, adults",
    duplicates=0,
    failed=0,
    recounted=False,
)


def share(name: str, cells: int, low: float, high: float, found: Finding = "untold") -> Share:
    """One class among 200 cells."""
    limits, percent = Interval(low, high), cells / 2
    more = 337 if found == "untold" else None
    return Share(name, cells, percent, limits, None, limits, CLASSES[name], found, more)


COUNT = Differential(
    cells=200,
    shares=(
        share("EOSINOPHIL", 34, 12.1, 22.9, "high"),
        share("LYMPHOCYTE", 58, 22.8, 35.8, "within"),
        share("MONOCYTE", 9, 2.1, 8.4),
        share("NEUTROPHIL", 90, 38.0, 52.2, "low"),
    ),
    unclassified=Part(9, 4.5, Interval(2.1, 8.4)),
    other=Part(0, 0, Interval(0, 1.8)),
    by_reader=0,
    changed=0,
    excluded=0,
    confusion=None,
    warnings=(Remark("no-basophils", "It counts no basophils."),),
)


def corrected(of: Share) -> Share:
    """The same with a correction that is a little wider."""
    limits = Interval(of.limits.low * 0.9, of.limits.high * 1.1)
    return replace(of, corrected=Corrected(of.percent * 0.98, limits), widest=limits)


READ = replace(
    COUNT,
    shares=tuple(corrected(of) for of in COUNT.shares),
    other=Part(2, 1.0, Interval(0.1, 3.6)),
    by_reader=12,
    changed=3,
    confusion="the validation set",
)


CONFUSION = Confusion(
    "PBC and BCCD",
    ((600, 3, 2, 5, 10), (2, 500, 8, 1, 12), (3, 12, 300, 2, 9), (6, 1, 2, 900, 11)),
)
FULLEST = [
    *([Cell("EOSINOPHIL")] * 14 + [Cell("LYMPHOCYTE")] * 20 + [Cell("MONOCYTE")] * 4),
    *([Cell("NEUTROPHIL")] * 40 + [Cell(None)] * 12),
    *([Cell("EOSINOPHIL", NOT_COUNTED)] * 10),
    *([Cell("NEUTROPHIL", "OTHER")] * 2 + [Cell("MONOCYTE", "LYMPHOCYTE")] * 3),
]


class Page(HTMLParser):
    """What a browser makes of it: texts of each element, and all tags with their attributes."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        """Note a tag, and open it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append((tag, []))

    def handle_endtag(self, tag):
        """Close what was opened last."""
        opened, texts = self._open.pop()
        assert opened == tag
        self.texts.setdefault(tag, []).append(" ".join("".join(texts).split()))

    def handle_data(self, data):
        """Give a text to all that is open."""
        for _, texts in self._open:
            texts.append(data)

    def heads(self) -> list[str]:
        """The columns' heads."""
        columns = sum(attributes.get("scope") == "col" for _, attributes in self.tags)
        return self.texts["th"][:columns]


def plain(differential: Differential, made: Made = MADE) -> str:
    """The page's text, on one line, with ordinary spaces."""
    text = re.sub(r"<style>.*</style>", "", sheet.page(differential, made), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def rows(differential: Differential) -> dict[str, list[str]]:
    """The cells of each row of the table, by the name at its head."""
    found = re.findall(
        r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", sheet.page(differential, MADE)
    )
    cell = re.compile(r"<td[^>]*>(?:<strong>)?(.*?)(?:</strong>)?</td>")
    return {name: cell.findall(cells) for name, cells in found}


def test_each_class_has_its_row():
    """Count, share, limits, all considered, normal range and finding."""
    assert rows(COUNT) == {
        "Eosinophil": ["34", "17.0 %", "12.1 to 22.9", "12.1 to 22.9", "1 to 4 %", "high"],
        "Lymphocyte": ["58", "29.0 %", "22.8 to 35.8", "22.8 to 35.8", "20 to 40 %", "within"],
        "Monocyte": ["9", "4.5 %", "2.1 to 8.4", "2.1 to 8.4", "2 to 8 %", "cannot be told"],
        "Neutrophil": ["90", "45.0 %", "38.0 to 52.2", "38.0 to 52.2", "55 to 70 %", "low"],
        "Unclassified": ["9", "4.5 %", "2.1 to 8.4", "", "", ""],
    }


def test_a_correction_has_a_column():
    """With its limits, and where the confusion was measured; without one there is none."""
    assert rows(READ)["Eosinophil"][3] == "16.7 % (10.9 to 25.2)"
    assert "made with validation photographs of the validation set" in plain(READ)
    assert "Corrected" in Page(sheet.page(READ, MADE)).heads()
    assert "orrected" not in plain(COUNT)


def test_every_finding_is_told_in_words():
    """The same words as everywhere."""
    for of in READ.shares:
        assert finding.in_words(of, READ.cells) in plain(READ)


def test_what_was_counted_is_told():
    """Named, unclassified, and what a reader called another kind."""
    assert "200 cells counted: 191 named, 9 unclassified. Shares" in plain(COUNT)
    assert "200 cells counted: 189 named, 9 unclassified, 2 of another kind. " in plain(READ)
    assert rows(READ)["Other"][:3] == ["2", "1.0 %", "0.1 to 3.6"]


def test_photographs_that_are_not_counted_are_told():
    """Those that could not be read, and those that were there already."""
    told = "Photographs not counted: 2 that could not be read, 1 there already. "
    assert told in plain(COUNT, replace(MADE, duplicates=1, failed=2))
    assert "Photographs not counted" not in plain(COUNT)


def test_readers_are_told_apart_from_the_model():
    """How many cells are as they said, and how many of them they changed."""
    assert "none: every answer is the model's" in plain(COUNT)
    assert "12 of 200 cells are as a reader said, 3 of them not as the model had" in plain(READ)


def test_what_a_reader_excluded_is_told():
    """A finding that was taken away leaves a trace, though no counted cell is as a reader said."""
    cells = [Cell("NEUTROPHIL")] * 90 + [Cell("EOSINOPHIL", NOT_COUNTED)] * 10
    text = plain(count(cells, CLASSES, None))
    assert "90 named, 0 unclassified. Photographs not counted: 10 excluded by a reader. " in text
    assert "0 of 90 cells are as a reader said" in text
    assert text.count("excluded from the count: 10") == 2
    assert "every answer is the model's" not in text


def test_the_sheet_says_where_it_comes_from():
    """Model, weights, request, time with its zone, ranges with their source, and the basis."""
    text = plain(COUNT)
    for fact in (
        "hemavision, version 3",
        "SHA-256 " + "9f2c" * 16,
        "5b1e0c6c",
        "2026-11-23 14:21:07 UTC",
        "The laboratory's ranges, version 1, adults",
        "Mosby's Manual",
        "MedlinePlus gives 40 to 60 %",
        "photographs, classified for this count",
        "It counts no basophils.",
    ):
        assert fact in text
    source = CLASSES["MONOCYTE"].normal_range.source
    assert source not in plain(COUNT, replace(MADE, ranges=source)).replace(source, "", 1)
    again = plain(COUNT, replace(MADE, recounted=True, weights_sha256=None))
    assert "what the program answered to photographs earlier, as a client sent it back" in again
    assert "no hash is known" in again


def test_it_is_preliminary_until_somebody_signs():
    """The statement, and lines to write on."""
    text = plain(COUNT)
    for words in ("Preliminary", finding.STATEMENT, "Patient", "Specimen", "Reviewed by", "Date"):
        assert words in text


def test_no_cell_is_told_as_such():
    """Nothing is divided, nothing found."""
    limits = Interval(0, 100)
    shares = tuple(
        replace(of, count=0, percent=0.0, limits=limits, widest=limits, finding="untold")
        for of in COUNT.shares
    )
    nothing = replace(COUNT, cells=0, shares=shares, unclassified=Part(0, 0, limits), warnings=())
    text = plain(nothing)
    assert "No cell was counted." in text
    assert text.count("cannot be told: no cell was counted") == 4
    assert "Keep in mind" not in text


def unranged(of: Share) -> Share:
    """The same for an age that has no normal range."""
    return replace(of, leukocyte=replace(of.leukocyte, normal_range=None), finding="untold")


RANGELESS = replace(COUNT, shares=tuple(map(unranged, COUNT.shares)))


def test_without_a_normal_range_the_share_stands_alone():
    """No range, none drawn, and no source of one."""
    assert rows(RANGELESS)["Eosinophil"][-2:] == ["", "cannot be told"]
    assert chart.chart(RANGELESS.shares[0]).find("rect") is None
    assert "Mosby" not in plain(RANGELESS)


@pytest.mark.parametrize("differential", [COUNT, READ, RANGELESS])
def test_the_page_is_whole_in_itself(differential):
    """No script, no outside address, nothing to fetch; each tag is closed, each id its own."""
    text = sheet.page(differential, MADE)
    page = Page(text)
    assert "://" not in text
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        named = (attributes.get("aria-labelledby") or "").split()
        assert set(named) <= set(ids)
    assert set(re.findall(r"url\(#(.+?)\)", text)) <= set(ids)


def test_the_style_is_the_one_that_is_declared():
    """A policy that names its hash lets it through, and no other."""
    (style,) = re.findall(r"<style>(.*)</style>", sheet.page(COUNT, MADE), flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"sha256-{digest}" == sheet.STYLE_SHA256


def test_people_who_do_not_see_it_can_read_it():
    """A language, a title, headings in order, heads of rows and columns, drawings in words."""
    page = Page(sheet.page(READ, MADE))
    assert ("html", {"lang": "en"}) in page.tags
    assert page.texts["title"][0] == "Differential count of 200 cells, request 5b1e0c6c"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes == ["col"] * 8 + ["row"] * 6
    assert [a["role"] for tag, a in page.tags if tag == "svg"] == ["img"] * 4
    assert page.texts["desc"][0] == (
        "On a scale from 0 to 50 %: counted, 12.1 to 22.9 %; corrected, 10.9 to 25.2 %; "
        "all considered, 10.9 to 25.2 %; normal, 1 to 4 %."
    )


def test_what_a_name_holds_stays_text():
    """Nothing that comes from outside becomes an element."""
    text = sheet.page(COUNT, replace(MADE, model_name="<script>alert(1)</script>", ranges="a & b"))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "a &amp; b" in text


def test_the_chart_draws_where_the_limits_lie():
    """On a scale that has room for them and for the normal range, from 0 on the left."""
    drawing = chart.chart(COUNT.shares[0])  # 12.1 to 22.9 of 50 %; normal 1 to 4 %
    left, right = 98, 318
    width = right - left
    normal = drawing.find("rect")
    assert float(normal.get("x")) == pytest.approx(left + width * 1 / 50, abs=0.1)
    assert float(normal.get("width")) == pytest.approx(width * 3 / 50, abs=0.1)
    assert float(drawing.find("circle").get("cx")) == pytest.approx(left + width * 17 / 50, abs=0.1)
    lane = next(path.get("d") for path in drawing.iter("path") if path.get("class") == "lane")
    low, high = (float(x) for x in re.match(r"M([\d.]+) [\d.]+H([\d.]+)", lane).groups())
    assert low == pytest.approx(left + width * 12.1 / 50, abs=0.1)
    assert high == pytest.approx(left + width * 22.9 / 50, abs=0.1)


def of_photographs() -> list[Remark]:
    """All that is to be kept in mind with photographs."""
    idle = (Photograph(n, None, duplicate_of=1, reader="OTHER") for n in range(100, 112))
    return Smear(tuple(idle), (3, 4)).warnings()


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium to print")
@pytest.mark.parametrize("size", ["A4", "letter"])
def test_it_fits_on_one_page(size, tmp_path):
    """As a browser prints it, with every row, column and warning that one count can have."""
    source = CLASSES["MONOCYTE"].normal_range.source
    made = replace(
        MADE,
        recounted=True,
        ranges=f"{source}, version 1, 18 years and older",
        duplicates=100,
        failed=100,
    )
    fullest = count(FULLEST, CLASSES, CONFUSION)
    fullest = replace(fullest, warnings=(*fullest.warnings, ADULTS_ASSUMED, *of_photographs()))
    text = sheet.page(fullest, made)
    (tmp_path / "sheet.html").write_text(text.replace("@page {", f"@page {{ size: {size};"))
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"),
            *(f"--user-data-dir={tmp_path}/profile", f"--print-to-pdf={tmp_path}/sheet.pdf"),
            (tmp_path / "sheet.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert len(re.findall(rb"/Type /Page\b", (tmp_path / "sheet.pdf").read_bytes())) == 1
