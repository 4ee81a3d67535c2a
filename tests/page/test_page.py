"""The page in a real browser, over the real gateway and a real model server."""

import gzip
import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from gateway.handlers import PAGE_FILES

PAGE = Path(__file__).parents[2] / "gateway" / "page"
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"


@pytest.fixture(scope="session")
def cell(tmp_path_factory, smear) -> Path:
    """A drawn photograph as a file."""
    path = tmp_path_factory.mktemp("cells") / "cell.png"
    smear.save(path)
    return path


@pytest.fixture(scope="session")
def cells(tmp_path_factory) -> Path:
    """A folder of drawn photographs, with a text and a broken picture among them."""
    from export.smear import draw_smear

    folder = tmp_path_factory.mktemp("smear")
    for number, kind in enumerate(("NEUTROPHIL", "LYMPHOCYTE", "MONOCYTE"), 1):
        draw_smear(kind, number, 120, 120).save(folder / f"{number}.png")
    (folder / "9.png").write_bytes(b"no picture at all")
    (folder / "notes.txt").write_text("ten cells seen")
    return folder


def answered(page):
    """Wait for the answer with its heat map."""
    page.wait_for_selector("#tools:not([hidden])")
    return page


def shown(page, cell):
    """Give the page one photograph, and wait for its answer."""
    page.set_input_files("#files", cell)
    return answered(page)


def test_the_first_load_is_light():
    """All that the empty page needs is under 100 KB, compressed."""
    first = {n for n in PAGE_FILES if not n.startswith("docs") and not n.endswith((".jpg", ".png"))}
    sizes = {name: len((PAGE / name).read_bytes()) for name in first if name.endswith("2")}
    text = first - set(sizes) - {"eyepiece.webp"}
    sizes |= {name: len(gzip.compress((PAGE / name).read_bytes())) for name in text}
    assert sum(sizes.values()) + (PAGE / "eyepiece.webp").stat().st_size < 100_000


def test_every_word_has_its_place():
    """Each name in the HTML is one of words.js, so that a translator has all of them."""
    words = (PAGE / "words.js").read_text()
    for name in re.findall(r'data-(?:words|label)="([\w.]+)"', (PAGE / "index.html").read_text()):
        assert re.search(rf"\b{name.split('.')[-1]}:", words), name


def test_a_photograph_is_read(visit, gateway, cell):
    """A picked file is answered by the class that the API gives it, with all probabilities."""
    page = shown(visit(gateway.url), cell)
    reply = page.request.post(
        f"{gateway.url}/v1/classify?heatmap=none", multipart={"file": cell_part(cell)}
    ).json()
    assert page.inner_text("#name").upper() == reply["prediction"]
    assert len(page.query_selector_all("#shares li")) == 4
    assert f"{reply['confidence'] * 100:.1f}\u00a0%" in page.inner_text("#confidence")
    assert page.inner_text("#live").startswith(page.inner_text("#name"))


def cell_part(path):
    """A file as Playwright's own requests send it."""
    return {"name": path.name, "mimeType": "image/png", "buffer": path.read_bytes()}


def test_the_receipt_is_the_servers(visit, gateway, cell):
    """Each stage of the receipt is one of the reply, with its figure."""
    page = shown(visit(gateway.url), cell)
    timing = json.loads(saved(page, "#save-json"))["timing_ms"]
    page.wait_for_selector("#receipt:not([hidden])")
    receipt = page.inner_text("#timing")
    for stage in ("wait", "prepare", "predict", "explain", "total"):
        shown_ms = page.evaluate("ms => ms.toFixed(1)", timing[stage])
        assert f"{shown_ms} ms" in receipt


@pytest.mark.parametrize("resolution", ["fine", "coarse"])
def test_the_heat_map_is_the_servers(visit, gateway, cell, resolution):
    """What the page draws from the cells is what the server draws, but for a grey level or two."""
    page = shown(visit(gateway.url), cell)
    if resolution == "coarse":
        with page.expect_response("**/v1/classify*resolution=coarse*"):
            page.check("input[value=coarse]", force=True)
    page.wait_for_selector(f"#stage[data-resolution={resolution}]")
    size = page.evaluate("[document.querySelector('#heat').width, heat.height]")
    drawn = page.evaluate(
        "Array.from(heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data)"
    )
    layer = np.array(drawn, np.uint8).reshape(size[1], size[0], 4)
    picture = Image.open(cell).convert("RGB")
    assert picture.size == tuple(size)
    mixed = Image.composite(
        Image.fromarray(layer[..., :3]), picture, Image.fromarray(layer[..., 3])
    )
    query = f"resolution={resolution}&colormap=turbo&alpha=1&format=png"
    overlay = page.request.post(
        f"{gateway.url}/v1/heatmap?{query}", multipart={"file": cell_part(cell)}
    ).body()
    expected = np.asarray(Image.open(io.BytesIO(overlay)), int)
    assert np.percentile(np.abs(np.asarray(mixed, int) - expected), 99) <= 6


def test_the_heat_map_is_shown_as_wanted(visit, gateway, cell):
    """Over, beside, wiped, without; in another strength and other colours."""
    page = shown(visit(gateway.url, reduced_motion="reduce"), cell)
    for mode, both in (("side", True), ("wipe", True), ("plain", False), ("over", False)):
        page.check(f"input[value={mode}]", force=True)
        assert page.get_attribute("#stage", "data-mode") == mode
        assert page.is_visible("#plain") is both
        assert page.is_visible("#heat") is (mode != "plain")
    page.fill("input[name=opacity]", "80")
    assert page.evaluate("getComputedStyle(heat).opacity") == "0.8"
    before = page.evaluate("heat.toDataURL()")
    page.select_option("[name=colormap]", "viridis")
    assert page.evaluate("heat.toDataURL()") != before


def test_why_not_another_class(visit, gateway, cell):
    """Any other class can be asked for, and the map says that it is not the prediction."""
    page = shown(visit(gateway.url), cell)
    other = page.evaluate("[...document.querySelector('[name=explain]').options].at(-1).value")
    with page.expect_response(f"**/v1/classify*explain={other}*"):
        page.select_option("[name=explain]", other)
    page.wait_for_selector(f"#heat[aria-label*={other.lower()}]")
    says = page.inner_text("#heat-says").lower()
    assert "does not call it one" in says or "nothing in this photograph" in says


def test_zoomed_and_moved_by_keyboard(visit, gateway, cell):
    """Plus zooms, arrows move, and the picture never leaves its frame; zero shows all of it."""
    page = shown(visit(gateway.url), cell)
    page.focus("#stage")
    page.keyboard.press("+")
    assert page.inner_text("#zoom-level").startswith("1.5")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("stage.style.getPropertyValue('--x')") == "0.25"
    page.keyboard.press("0")
    assert page.inner_text("#zoom-level").startswith("1") is True


def test_saved_files_are_the_servers(visit, gateway, cell):
    """The heat map that is saved is the server's PNG; the answer is its JSON."""
    page = shown(visit(gateway.url), cell)
    assert saved(page, "#save-overlay").startswith(b"\x89PNG")
    assert json.loads(saved(page, "#save-json"))["probabilities"]


def saved(page, button) -> bytes:
    """What is downloaded on a click."""
    with page.expect_download() as caught:
        page.click(button)
    return Path(caught.value.path()).read_bytes()


def test_a_photograph_is_dropped_pasted_or_drawn(visit, gateway, cell):
    """Every way in ends in an answer."""
    page = visit(gateway.url)
    transfer = """bytes => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "cell.png", { type: "image/png" }));
        return transfer;
    }"""
    handle = page.evaluate_handle(transfer, list(cell.read_bytes()))
    page.dispatch_event("main", "drop", {"dataTransfer": handle})
    answered(page)
    for pasted in ("paste", "sample"):
        page.reload()
        page.once("dialog", lambda dialog: dialog.accept())
        if pasted == "sample":
            page.click("#sample")
        else:
            page.evaluate(
                f"""bytes => window.dispatchEvent(
                    new ClipboardEvent("paste", {{ clipboardData: ({transfer})(bytes) }}))""",
                list(cell.read_bytes()),
            )
        answered(page)


def test_a_photograph_is_taken_with_the_camera(visit, gateway):
    """The camera opens, is closed again, and what it saw is answered."""
    page = visit(gateway.url, permissions=["camera"])
    page.click("#camera")
    page.wait_for_selector("#shoot:not([disabled])")
    page.click("#shoot")
    answered(page)
    assert page.inner_text("#photo-name") == "camera-1.png"


def test_a_photograph_that_the_browser_cannot_show(visit, gateway, smear, tmp_path):
    """A TIFF is shown as the server sees it."""
    smear.save(tmp_path / "cell.tiff")
    page = shown(visit(gateway.url), tmp_path / "cell.tiff")
    page.wait_for_selector("#under", state="visible")
    page.evaluate("under.decode()")
    assert page.is_hidden("#no-preview")


def test_no_picture_is_said_kindly(visit, gateway, tmp_path):
    """What is no picture is answered by what to do, in the server's words."""
    (tmp_path / "notes.txt").write_text("ten cells seen")
    page = visit(gateway.url, expected="415")
    page.set_input_files("#files", tmp_path / "notes.txt")
    page.wait_for_selector("#notice:not([hidden])")
    assert "picture" in page.inner_text("#notice").lower()


def test_the_server_goes_and_comes_back(visit, gateway_of, model_server, cell):
    """What was on screen stays; what could not be asked is asked by itself later."""
    server = gateway_of(model_server)
    page = shown(visit(server.url, expected="net::ERR"), cell)
    server.stop()
    page.set_input_files("#files", [cell, cell])
    page.wait_for_selector("#notice:not([hidden])")
    assert "goes on by itself" in page.inner_text("#notice")
    assert len(page.query_selector_all("#grid .answered")) == 1
    server.start()
    page.locator("#grid .answered").nth(2).wait_for()
    page.wait_for_selector("#notice", state="hidden")


def test_the_model_goes_and_the_page_keeps_asking(visit, gateway_of, cell):
    """Without a model server the page says so, and keeps the photograph."""
    page = visit(gateway_of("127.0.0.1:1").url, expected="503")
    page.set_input_files("#files", cell)
    page.wait_for_selector("#notice:not([hidden])")
    assert "keeps asking" in page.inner_text("#notice-detail")
    assert page.is_visible("#stage")


def test_a_key_is_asked_for(visit, gateway_of, model_server, cell, tmp_path):
    """A wrong key is said to be wrong; the right one goes on with what was waiting."""
    digest = hashlib.sha256(b"hv_page").hexdigest()
    (tmp_path / "keys.toml").write_text(f'[lab]\nsha256 = "{digest}"\n')
    server = gateway_of(model_server, KEYS_FILE=tmp_path / "keys.toml")
    page = visit(server.url, expected="401")
    page.set_input_files("#files", cell)
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", "hv_wrong")
    page.keyboard.press("Enter")
    page.get_by_text("It does not know the key").first.wait_for()
    page.fill("#key", "hv_page")
    page.keyboard.press("Enter")
    answered(page)


def test_the_particles_rest_where_motion_is_not_wanted(visit, gateway):
    """They are drawn once, and stay where they are."""
    page = visit(gateway.url, reduced_motion="reduce")
    some_frames = """new Promise((done) => {
        let left = 9;
        (function wait() { left-- ? requestAnimationFrame(wait) : done(); })();
    })"""
    page.evaluate(some_frames)
    before = page.evaluate("particles.toDataURL()")
    page.evaluate(some_frames)
    assert page.evaluate("particles.toDataURL()") == before


def test_nothing_is_wrong_for_those_who_do_not_see_it(visit, gateway, cell, cells, theme):
    """axe-core finds nothing in any state, in both themes."""
    page = visit(gateway.url, theme=theme, reduced_motion="reduce", expected="Failed to load")
    blameless(page)
    blameless(shown(page, cell))
    page.check("input[value=wipe]", force=True)
    blameless(page)
    page.set_input_files("#files", sorted(cells.glob("*.png")))
    page.wait_for_selector("#grid .failed")
    page.locator("#grid .answered").nth(3).wait_for()
    page.wait_for_selector("#count-rows tr")
    blameless(page)
    page.click("#grid .failed .picture")
    page.wait_for_selector("#notice:not([hidden])")
    blameless(page)


@pytest.fixture(params=["dark", "light"])
def theme(request) -> str:
    """Each theme of the page."""
    return request.param


def test_nothing_is_wrong_where_something_is_asked(
    visit, gateway, gateway_of, cell, theme, tmp_path
):
    """Nor with the camera open, a key wanted, or the model away."""
    page = visit(gateway.url, theme=theme, reduced_motion="reduce", permissions=["camera"])
    page.click("#camera")
    page.wait_for_selector("#shoot:not([disabled])")
    blameless(page)
    (tmp_path / "keys.toml").write_text(f'[lab]\nsha256 = "{"0" * 64}"\n')
    for settings, there in (({"KEYS_FILE": tmp_path / "keys.toml"}, "#key-form"), ({}, "#notice")):
        server = gateway_of("127.0.0.1:1", **settings)
        page = visit(server.url, theme=theme, reduced_motion="reduce", expected="Failed to load")
        page.set_input_files("#files", cell)
        page.wait_for_selector(f"{there}:not([hidden])")
        blameless(page)


def test_a_folder_is_taken(visit, gateway, cells):
    """Its pictures are asked about, the rest is counted as left out."""
    page = visit(gateway.url, expected="Failed to load")
    page.set_input_files("#folder", cells)
    page.locator("#grid .answered").nth(2).wait_for()
    assert "1 file of another kind left out" in page.inner_text("#notice")


def blameless(page):
    """axe-core's rules for WCAG 2.2 AA, and its best practices."""
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [n["html"][:120] for n in rule["nodes"]]) for rule in found] == []


@pytest.mark.parametrize("size", [(390, 844), (1280, 860), (2560, 1440)])
def test_pictures_of_the_page(visit, gateway, cell, cells, theme, size):
    """It never scrolls sideways; what it looks like lies in screenshots/ afterwards."""
    width, height = size
    page = visit(
        gateway.url, theme, width, height, reduced_motion="reduce", expected="Failed to load"
    )
    for view in ("empty", "one", "series"):
        if view == "one":
            shown(page, cell)
        if view == "series":
            page.set_input_files("#files", sorted(cells.glob("*.png")))
            page.wait_for_selector("#count-rows tr")
            page.wait_for_selector("#grid :is(.sending, .reading, .waiting)", state="detached")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=SCREENSHOTS / f"{view}-{theme}-{width}.png", full_page=True)


def test_a_series_is_counted_live(visit, gateway, cells, tmp_path):
    """A zip: each photograph gets its label, the same twice is named, the count is the server's."""
    twice = tmp_path / "smear.zip"
    with zipfile.ZipFile(twice, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(cells.iterdir()):
            archive.write(path, f"smear/{path.name}")
        archive.write(cells / "1.png", "smear/4.png")
    page = visit(gateway.url, expected="Failed to load")
    page.set_input_files("#files", twice)
    page.locator("#grid .answered").nth(3).wait_for()
    page.get_by_text("Same as 1.png").wait_for()
    page.get_by_text("3 cells counted").wait_for()
    assert "1 file of another kind left out" in page.inner_text("#notice")
    expect(page.locator("#grid .failed")).to_have_count(1)
    report = json.loads(saved(page, "#save-count"))
    assert (report["basis"], report["totals"]["duplicates"]) == ("recount", 1)


def test_a_readers_word_wins(visit, gateway, cells):
    """It is marked as theirs, counted as they say, and can be taken back; filters find it."""
    page = visit(gateway.url, expected="Failed to load")
    page.set_input_files("#files", sorted(cells.glob("[123].png")))
    page.locator("#grid .answered").nth(2).wait_for()
    page.select_option("#grid li:first-child select", "OTHER")
    page.get_by_text("Other white cells").first.wait_for()
    assert "read by a person" in page.inner_text("#grid li:first-child .label")
    page.select_option("[name=certainty]", "corrected")
    expect(page.locator("#grid li:visible")).to_have_count(1)
    report = json.loads(saved(page, "#save-count"))
    assert report["totals"]["by_reader"] == 1
    page.select_option("[name=certainty]", "any")
    page.select_option("#grid li:first-child select", "")
    page.locator("#count-rows").get_by_text("Other white cells").wait_for(state="detached")


def test_a_photograph_of_a_series_is_opened_and_left(visit, gateway, cells):
    """By a click and the browser's Back or Escape; the focus is where it was."""
    page = visit(gateway.url, expected="Failed to load")
    page.set_input_files("#files", sorted(cells.glob("[123].png")))
    page.locator("#grid .answered").nth(2).wait_for()
    for leave in (page.go_back, lambda: page.keyboard.press("Escape")):
        page.click("#grid li:nth-child(2) .picture")
        answered(page)
        leave()
        page.wait_for_selector("#grid", state="visible")
        assert page.evaluate("document.activeElement.ariaLabel").startswith("Open 2.png")


def test_the_page_is_soon_there(visit, gateway):
    """In the browser's own measure, printed: a time is no bound on a shared machine; bytes are."""
    page = visit(gateway.url)
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    loaded = page.evaluate("performance.getEntriesByType('resource').map((r) => r.encodedBodySize)")
    print(f"ready after {timing['domInteractive']:.0f} ms, loaded {timing['loadEventEnd']:.0f} ms")
    assert sum(loaded) + timing["encodedBodySize"] < 100_000


def test_a_count_is_saved_as_fhir_and_as_a_page(visit, gateway, cells):
    """Both are the server's."""
    page = visit(gateway.url, expected="Failed to load")
    page.set_input_files("#files", sorted(cells.glob("[123].png")))
    page.wait_for_selector("#count-rows tr")
    assert json.loads(saved(page, "#save-fhir"))["resourceType"] == "Bundle"
    assert b"Differential count" in saved(page, "#open-sheet")


def test_every_place_has_a_name_of_its_own():
    """No two elements share an id: the second would never be found."""
    names = re.findall(r'\bid="([\w-]+)"', (PAGE / "index.html").read_text())
    assert sorted(names) == sorted(set(names))
