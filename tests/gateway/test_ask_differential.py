"""`hemavision differential`, against a real gateway and against bad ones."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway import cli
from gateway.ask import series

HEMAVISION = Path(sys.executable).with_name("hemavision")
NOWHERE = "http://127.0.0.1:1"
MEGABYTE = 1024**2

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def url(model_server) -> Iterator[str]:
    """The address of a real gateway over the tiny model."""
    with subprocess.Popen(
        [HEMAVISION, "serve"],
        env=os.environ | {"HEMAVISION_PORT": "0", "HEMAVISION_MODEL_SERVER": model_server},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    """Three drawn cells as PNG files, by name."""
    from crafted import encoded

    from export.smear import draw_smear

    return {f"{n}.png": encoded(draw_smear("NEUTROPHIL", seed=n), "PNG") for n in (1, 2, 3)}


@pytest.fixture
def cells(drawn, tmp_path) -> Path:
    """A folder with these, and what is no picture."""
    folder = tmp_path / "cells"
    (folder / "deep").mkdir(parents=True)
    for name, data in drawn.items():
        (folder / name).write_bytes(data)
    (folder / "3.png").rename(folder / "deep/3.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(*arguments: object, **more: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [HEMAVISION, "differential", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,
    )


def report_of(*arguments: object) -> dict:
    """What `--json` prints, which is one document and nothing else."""
    ran = run(*arguments, "--json")
    assert ran.stderr == ""
    return json.loads(ran.stdout)


@contextmanager
def scripted(*answers: Answer) -> Iterator[str]:
    """Serve the answers one after the other, the last one for ever; yield the address."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (left.pop(0) if len(left) > 1 else left[0])(self)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def body(handler: BaseHTTPRequestHandler) -> bytes:
    """Read what was sent, to the end."""
    if length := handler.headers["Content-Length"]:
        return handler.rfile.read(int(length))
    received = bytearray()
    while size := int(handler.rfile.readline(), 16):
        received += handler.rfile.read(size)
        assert handler.rfile.readline() == b"\r\n"
    assert handler.rfile.readline() == b"\r\n"
    return bytes(received)


def says(status: int, *lines: object, **headers: str) -> Answer:
    """Hear all that is sent, and answer with lines of JSON."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body(handler)
        begin(handler, status, **headers)
        for line in lines:
            handler.wfile.write(json.dumps(line).encode() + b"\n")

    return answer


def begin(handler: BaseHTTPRequestHandler, status: int = 200, **headers: str) -> None:
    """Send the head of a reply."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


@pytest.fixture(scope="module")
def line(url, drawn, tmp_path_factory) -> dict:
    """A real report of a real gateway, as a last line."""
    path = tmp_path_factory.mktemp("one") / "1.png"
    path.write_bytes(drawn["1.png"])
    return {"kind": "report", **report_of(path, "--url", url)}


# what is counted


def test_a_folder_is_counted(url, cells):
    """A table, a sentence for each class, what to keep in mind; other files are left alone."""
    ran = run(cells, "--url", url)
    lines = ran.stdout.splitlines()
    assert lines[0] == "3 photographs, 3 cells counted: 3 named, 0 unclassified."
    heads = ["class", "cells", "share", "95 % limits", "normal", "finding"]
    assert re.split(" {2,}", lines[2]) == heads
    names = [row.split()[0] for row in lines[3:8]]
    assert names == ["Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil", "Unclassified"]
    told = " ".join(ran.stdout.split())
    assert re.search(r"(high|told at n = 3): 100\.0 % \(29\.2 to 100\.0\), normal \d", told)
    for words in ("Keep in mind", "basophils", "hemavision, version 1", "Normal ranges"):
        assert words in told
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_zip_is_counted_as_its_photographs(url, cells, drawn, tmp_path):
    """The same answers as from the folder; and beside files."""
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as zipped:
        for name in ("1.png", "2.png"):
            zipped.writestr(name, drawn[name])
    report = report_of(tmp_path / "cells.zip", cells / "deep", "--url", url)
    kept = ("name", "prediction", "confidence", "status")
    answers = [[p[name] for name in kept] for p in report["photographs"]]
    folder = report_of(cells, "--url", url)
    assert answers == [[p[name] for name in kept] for p in folder["photographs"]]
    assert report["shares"] == folder["shares"]


def test_what_is_not_counted_is_told(url, cells, drawn):
    """One that cannot be read, and the same picture again; the status is 1."""
    (cells / "4.png").write_bytes(drawn["1.png"])
    (cells / "5.png").write_bytes(drawn["2.png"][:5000])
    ran = run(cells, "--url", url)
    told = " ".join(ran.stdout.split())
    assert "5 photographs, 3 cells counted: 3 named, 0 unclassified, 1 counted" in told
    assert "1 not read" in told
    assert re.search(r"Not read +4 5\.png: ", told)
    assert re.search(r"Duplicates +3 4\.png \(again 1\)", told)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_json_is_the_gateways_report(url, cells):
    """One document with every photograph and every share."""
    report = report_of(cells, "--url", url)
    assert [p["name"] for p in report["photographs"]] == ["1.png", "2.png", "3.png"]
    assert report["totals"]["cells"] == 3
    assert report["basis"] == "photographs"
    assert "kind" not in report


def test_a_reader_wins(url, cells, tmp_path):
    """By the names of the files, a line each; and the count says so."""
    words = tmp_path / "words"
    lines = ({"file": "1.png", "reader": "OTHER"}, {"file": "2.png", "reader": "NOT_COUNTED"})
    words.write_text("\n".join(map(json.dumps, lines)))
    told = " ".join(run(cells, "--readers", words, "--url", url).stdout.split())
    assert "2 cells counted: 1 named, 0 unclassified, 1 of another kind, 1 left out" in told
    assert "1 cells are as a reader said, 1 of them not as the model had said." in told
    assert re.search(r"Other +1 +50\.0 %", told)
    assert "Left out 2 2.png" in told


def test_words_about_nothing_are_refused(url, cells, tmp_path):
    """In the gateway's words, with status 2."""
    (tmp_path / "words").write_text('{"file": "7.png", "reader": "OTHER"}')
    ran = run(cells, "--readers", tmp_path / "words", "--url", url)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "'7.png'" in ran.stderr


def test_the_blood_is_told_to_the_gateway(url, cells):
    """Age, sex and correction go with the series, and with what is made of its report."""
    ran = run(cells, "--age", "400", "--url", url)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "`age`" in ran.stderr
    report = report_of(
        cells, "--age", "40", "--sex", "female", "--correction", "none", "--url", url
    )
    assert report["ranges"]["band"]
    assert report["correction"] is None


# forms


def test_a_page_and_fhir_are_written_whole(url, cells, tmp_path):
    """Beside the table; in place of what was there, and nothing is left aside."""
    html, fhir = tmp_path / "out/count.html", tmp_path / "out/count.json"
    html.parent.mkdir()
    html.write_text("of yesterday")
    ran = run(cells, "--html", html, "--fhir", fhir, "--url", url)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("3 photographs, 3 cells counted")
    assert html.read_text().startswith("<!doctype html>")
    assert "3 cells counted" in html.read_text()
    assert json.loads(fhir.read_text())["resourceType"] == "Bundle"
    assert {path.name for path in html.parent.iterdir()} == {"count.html", "count.json"}


def test_standard_output_is_for_one(url, cells):
    """A page that goes there has no table before it; two that want it are refused."""
    page = run(cells, "--html", "-", "--url", url)
    assert page.stdout.startswith("<!doctype html>")
    assert page.stdout.rstrip().endswith("</html>")
    assert page.returncode == 0
    with pytest.raises(SystemExit) as ended:
        cli.main(["differential", str(cells), "--html", "-", "--json"])
    assert ended.value.code == 2


@pytest.mark.parametrize("place", ["nowhere/count.html", "cells"])
def test_a_place_that_is_none_is_told_before_anything_is_sent(cells, tmp_path, place):
    """Nobody listens there, and it is not noticed."""
    ran = run(cells, "--html", tmp_path / place, "--url", NOWHERE)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "cannot be written" in ran.stderr


def test_a_page_that_cannot_be_written_takes_no_count_away(line, cells):
    """The table is there, the reason on standard error, and the status is 1."""
    with scripted(says(200, line), says(200, "page")) as url:
        ran = run(cells, "--html", "/proc/count.html", "--url", url)
    assert ran.stdout.startswith("1 photographs")
    assert "/proc/count.html could not be written" in ran.stderr
    assert ran.returncode == 1


# what cannot be sent


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.png", None, "gone.png cannot be read (No such file or directory)"),
        ("cells.zip", b"no zip", "cells.zip is no zip, or a damaged one"),
        ("cells", b"PK\x03\x04 and no more", "cells is no zip, or a damaged one"),
    ],
)
def test_a_file_that_cannot_be_sent_stops_everything(drawn, tmp_path, name, content, sentence):
    """A count without it is not what was asked for: it is told before anything is sent."""
    (tmp_path / "1.png").write_bytes(drawn["1.png"])
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = run(tmp_path / "1.png", tmp_path / name, "--url", NOWHERE)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert sentence in ran.stderr


def test_where_there_is_no_photograph_that_is_told(tmp_path):
    """An empty folder, one without pictures, standard input."""
    (tmp_path / "notes.txt").write_text("no picture")
    ran = run(tmp_path, "--url", NOWHERE)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "there is no photograph in what was named" in ran.stderr
    ran = run("-", "--url", NOWHERE, input="")
    assert ran.returncode == 2
    assert "not read from standard input" in ran.stderr


def test_photographs_of_which_none_can_be_read_are_no_count(url, tmp_path):
    """Each is told with its reason, then the whole; the status is 2."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("no picture")
    ran = run(tmp_path / "a.txt", tmp_path / "b.txt", "--url", url)
    assert (ran.returncode, ran.stdout) == (2, "")
    for name in ("a.txt: ", "b.txt: ", "hemavision: None of the 2 photographs could be read."):
        assert name in ran.stderr


def test_a_file_that_goes_away_while_it_is_sent_is_told(cells):
    """Nothing is counted without it."""
    wanted = series.find([cells], None)
    (cells / "2.png").unlink()
    with pytest.raises(series.Unreadable, match=r"2\.png cannot be read \(No such file"):
        list(wanted.form())


@pytest.mark.parametrize("name", ['quo"te.png', "two\nlines.png", "細胞.png", "odd\udcff.png"])
def test_any_name_can_be_sent(url, drawn, tmp_path, name):
    """Quotes, line ends, other scripts, bytes that are no text."""
    (tmp_path / name).write_bytes(drawn["1.png"])
    report = report_of(tmp_path, "--url", url)
    assert report["totals"]["cells"] == 1
    assert report["photographs"][0]["name"].endswith(".png")


# while it is sent


def test_the_reply_is_read_while_the_series_is_sent(line, tmp_path):
    """A gateway that tells more than a connection holds before it reads on stops nobody."""
    told = {"kind": "photograph", "status": "counted", "name": "x" * 1000}
    received = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        for _ in range(16 * 1024):  # 16 MB, which no socket holds
            handler.wfile.write(json.dumps(told).encode() + b"\n")
        received.append(body(handler))
        handler.wfile.write(json.dumps(line).encode() + b"\n")

    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(32 * MEGABYTE)
    with scripted(answer) as url:
        ran = run(tmp_path / "large.png", "--json", "--url", url)
    assert json.loads(ran.stdout) == {name: line[name] for name in line if name != "kind"}
    assert len(received[0]) > 32 * MEGABYTE


def test_a_series_that_is_refused_is_not_sent_to_its_end(tmp_path):
    """The refusal is heard though the gateway takes no more: in its words, with status 2."""
    told = {"type": "x", "title": "Too much", "status": 413, "detail": "Send less."}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, 413)
        handler.wfile.write(json.dumps(told).encode())
        handler.wfile.flush()
        handler.connection.shutdown(1)
        while handler.connection.recv(MEGABYTE):  # until the other side has understood
            pass

    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(1024 * MEGABYTE)
    with scripted(answer) as url:
        ran = run(tmp_path / "large.png", "--url", url)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Too much. Send less." in ran.stderr


def test_a_terminal_gets_a_bar_and_no_line_that_is_too_long(url, cells):
    """The bar is taken away again; where there is no room for a column it is left out."""
    terminal, its_side = pty.openpty()
    fcntl.ioctl(its_side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [HEMAVISION, "differential", cells, "--url", url],
        env=plain | {"TERM": "xterm"},
        stdin=its_side, stdout=its_side, stderr=its_side,
    )  # fmt: skip
    os.close(its_side)
    written = b""
    with suppress(OSError):  # the other side was closed: the process has ended
        while data := os.read(terminal, 65536):
            written += data
    os.close(terminal)
    assert process.wait(timeout=20) == 0
    text = written.decode().replace("\r\n", "\n")
    assert re.search("█+·* [123] of 3", text)
    shown = re.sub(r"\r\x1b\[K([^\r\n]*(?=\r))?", "", text).splitlines()
    assert max(map(len, shown)) <= 60
    assert re.split(" {2,}", shown[2]) == ["class", "cells", "share", "95 % limits", "finding"]


# gateways that fail


def test_without_a_gateway_it_says_how_to_start_one(cells):
    """At once, with status 2."""
    ran = run(cells, "--url", NOWHERE)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Connection refused" in ran.stderr
    assert "make run" in ran.stderr


def test_without_a_key_it_says_how_to_give_one(serve, model_server, cells, tmp_path):
    """Where the gateway asks for one."""
    made = subprocess.run([HEMAVISION, "key", "lab"], capture_output=True, text=True, check=True)
    (tmp_path / "keys.toml").write_text(made.stdout)
    key = made.stderr.split("\n\n")[1].strip()
    running = serve(MODEL_SERVER=model_server, KEYS_FILE=tmp_path / "keys.toml")
    ran = run(cells, "--url", running.url)
    assert ran.returncode == 2
    assert "asks for a key: give it as --key or HEMAVISION_KEY" in ran.stderr
    counted = run(cells, "--url", running.url, env=os.environ | {"HEMAVISION_KEY": key})
    assert counted.returncode == 0


def test_a_busy_gateway_is_sent_the_series_again(line, cells):
    """From its beginning, when it says."""
    received = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        received.append(body(handler))
        begin(handler)
        handler.wfile.write(json.dumps(line).encode())

    with scripted(says(503, {}, Retry_After="0"), answer) as url:
        ran = run(cells, "--json", "--url", url)
    assert ran.returncode == 0
    assert received[0].count(b'name="file"') == 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (says(200, {"kind": "photograph", "status": "counted"}), "broke off its reply"),
        (says(200), "no HemaVision gateway"),
        (says(200, {"answer": 42}), "no HemaVision gateway"),
        (says(404), "HTTP 404"),
        (
            says(200, {"kind": "problem", "type": "x", "title": "Gone", "detail": "Wait."}),
            "hemavision: Gone. Wait.",
        ),
        (lambda handler: body(handler) and None, "nothing answers"),
    ],
)
def test_what_is_wrong_with_the_gateway_is_told(cells, answer, sentence):
    """In a sentence, with status 2 and nothing on standard output."""
    with scripted(answer) as url:
        ran = run(cells, "--url", url)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_gateway_that_falls_silent_is_told(cells):
    """After --timeout without a line."""
    never = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        handler.wfile.write(b'{"kind": "photograph", "status": "counted"}\n')
        never.wait()

    with scripted(answer) as url:
        ran = run(cells, "--url", url, "--timeout", "0.3")
        never.set()
    assert ran.returncode == 2
    assert "does not answer within 0.3 s" in ran.stderr


def test_an_interrupt_ends_it(cells):
    """Ctrl-C at once, though the gateway hangs: status 130."""
    asked, never = threading.Event(), threading.Event()

    def answer(_: BaseHTTPRequestHandler) -> None:
        asked.set()
        never.wait()

    with scripted(answer) as url:
        process = subprocess.Popen(
            [HEMAVISION, "differential", cells, "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert asked.wait(20)
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=20)
        never.set()
    assert (process.returncode, printed) == (130, ("", "stopped\n"))


def test_the_help_names_every_exit_status(capsys):
    """And every way to write the report."""
    with pytest.raises(SystemExit):
        cli.main(["differential", "--help"])
    text = capsys.readouterr().out
    for word in ("0 counted", "1 counted, but", "2 nothing", "130", "--html", "--fhir", "--json"):
        assert word in text
