"""`hemavision classify` and `hemavision check`, against a real gateway and against bad ones."""

import ctypes
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from gateway import cli
from gateway.ask.crew import Crew
from gateway.ask.terminal import printable, width
from gateway.heatmap import COLORMAPS

HEMAVISION = Path(sys.executable).with_name("hemavision")
NOWHERE = "http://127.0.0.1:1"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@contextmanager
def serving(model_server: str) -> Iterator[str]:
    """Run `hemavision serve` on a free port; yield its address."""
    process = subprocess.Popen(
        [HEMAVISION, "serve"],
        env=os.environ | {"HEMAVISION_PORT": "0", "HEMAVISION_MODEL_SERVER": model_server},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def url(model_server) -> Iterator[str]:
    """The address of a real gateway over the tiny model."""
    with serving(model_server) as address:
        yield address


@pytest.fixture(scope="module")
def doubtful(tiny_model, tmp_path_factory) -> Iterator[str]:
    """The same over a model to which everything is unfamiliar."""
    import numpy as np

    from export.familiarity import Familiarity
    from export.gradcam import Network
    from export.local_server import LocalServer
    from export.saved_model import write_version

    features = np.random.default_rng(7).random((40, 8))
    familiarity = Familiarity.fit(features, ["cells"] * 40, [0] * 40, axes=2)
    network = Network.of(tiny_model, familiarity._replace(threshold=np.array(1e-6, np.float32)))
    base = tmp_path_factory.mktemp("doubtful") / "hemavision"
    write_version(network, {"name": "tiny"}, base)
    with (
        LocalServer("hemavision", base, "127.0.0.1:0") as server,
        serving(f"127.0.0.1:{server.port}") as address,
    ):
        yield address


@pytest.fixture
def cells(smear, tmp_path) -> Path:
    """A folder with three photographs, one below, and what is none."""
    folder = tmp_path / "cells"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/a.png", "a.overlay.png", ".hidden.png"):
        smear.save(folder / name)
    smear.save(folder / "photograph", "PNG")
    (folder / "notes.txt").write_text("no picture")
    return folder


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def scripted(*answers: Answer) -> Iterator[str]:
    """Serve the answers one after the other, the last one for ever; yield the address."""
    left, lock = list(answers), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                answer = left.pop(0) if len(left) > 1 else left[0]
            answer(self)

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


def says(status: int, body: object = None, **headers: str) -> Answer:
    """One HTTP response."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    return answer


def breaks_off(handler: BaseHTTPRequestHandler) -> None:
    """No response at all."""
    handler.close_connection = True


def run(*arguments: object, **more: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [HEMAVISION, "classify", *arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
        **more,
    )


def in_a_terminal(columns: int, *arguments: object, **environment: str) -> tuple[str, int]:
    """What `hemavision classify` writes to a terminal of some width, and its status."""
    terminal, its_side = pty.openpty()
    fcntl.ioctl(its_side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [HEMAVISION, "classify", *arguments],
        env=plain | {"TERM": "xterm", **environment},
        stdin=its_side, stdout=its_side, stderr=its_side,
    )  # fmt: skip
    os.close(its_side)
    written = b""
    with suppress(OSError):  # the other side was closed: the process has ended
        while data := os.read(terminal, 65536):
            written += data
    os.close(terminal)
    return written.decode().replace("\r\n", "\n"), process.wait(timeout=20)


@pytest.fixture
def reply(url, smear, tmp_path) -> dict:
    """A real reply of a real gateway."""
    smear.save(tmp_path / "asked.png")
    return json.loads(run(tmp_path / "asked.png", "--json", "--url", url).stdout)["reply"]


# one photograph


def test_one_photograph_is_shown_with_all_there_is_to_say(url, smear, tmp_path):
    """Bars, context, time; no heat map is asked for, and none is written."""
    smear.save(tmp_path / "cell.png")
    ran = run(tmp_path / "cell.png", "--url", url)
    assert ran.returncode == 0
    for word in ("EOSINOPHIL", "NEUTROPHIL", "Normal range", "One cell is no percentage", "ms"):
        assert word in ran.stdout
    assert "Heat map" not in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["cell.png"]


def test_one_that_is_refused_is_told_on_standard_error(url, tmp_path):
    """With the gateway's own sentence, and status 1."""
    (tmp_path / "bad.png").write_text("no picture")
    ran = run(tmp_path / "bad.png", "--url", url)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "bad.png" in ran.stderr
    assert "JPEG" in ran.stderr


def test_standard_input_is_one_photograph(url, jpeg):
    """`-` reads it; the terminal and a second reading are refused."""
    process = subprocess.run(
        [HEMAVISION, "classify", "-", "--json", "--url", url],
        input=jpeg, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(process.stdout)["file"] == "-"
    twice = run("-", "-", "--url", url, input="")
    assert twice.returncode == 2
    assert "once" in twice.stderr
    written, status = in_a_terminal(80, "-", "--url", url)
    assert status == 2
    assert "this terminal" in written


# many photographs


def test_several_are_a_table_in_the_order_given(url, cells):
    """A row each, then the counts; folders are sorted, overlays and other files left out."""
    ran = run(cells / "b.png", cells, "--url", url, "--jobs", "3")
    head, *rows = ran.stdout.splitlines()[:6]
    assert head.split() == ["file", "answer", "confidence", "time", "doubts", "notes"]
    names = ["b.png", "a.png", "b.png", "photograph", "deep/a.png"]
    assert [row.split()[0] for row in rows] == [str(cells / name) for name in names]
    assert "5 photographs: 5 answered, 0 not sure, 0 refused." in ran.stdout
    assert re.search(r"Answers: \w+ 5\.", ran.stdout)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_refusal_stands_in_its_row_and_stops_nothing(url, cells):
    """The reason is below the row; the status is 1."""
    ran = run(cells / "notes.txt", cells / "gone.png", cells / "a.png", "--url", url)
    lines = ran.stdout.splitlines()
    assert lines[1].split() == [str(cells / "notes.txt"), "refused"]
    assert "    It cannot be read: No such file or directory." in lines
    assert "3 photographs: 1 answered, 0 not sure, 2 refused." in lines
    assert ran.returncode == 1


def test_a_photograph_that_is_too_large_is_refused(url, tmp_path):
    """By the gateway, which answers before it has it all; and what nobody takes, by ourselves."""
    for name, megabytes in (("large.jpg", 40), ("huge.jpg", 129)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(megabytes * 1024**2)  # takes no room on the disk
    ran = run(tmp_path / "large.jpg", tmp_path / "huge.jpg", "--json", "--url", url)
    large, huge = (json.loads(line)["problem"] for line in ran.stdout.splitlines())
    assert large["type"] == "urn:hemavision:problem:photograph-too-large"
    assert huge["detail"] == "It cannot be read: it has more than 128 MiB."
    assert ran.returncode == 1


def heed_modes() -> None:
    """Let not even root read what its mode forbids: drop CAP_DAC_OVERRIDE and _READ_SEARCH."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_folder_that_cannot_be_read_is_told(cells):
    """Before anything is sent: half of a folder is no answer to the whole."""
    (cells / "deep").chmod(0)
    ran = run(cells, "--url", NOWHERE, preexec_fn=heed_modes)
    (cells / "deep").chmod(0o755)
    assert ran.returncode == 2
    assert "cannot be looked into" in ran.stderr


def test_not_sure_never_shows_the_class(doubtful, cells):
    """Neither its name nor its confidence; the doubt is named and explained; the status is 0."""
    ran = run(cells, "--url", doubtful)
    row = ran.stdout.splitlines()[1]
    assert re.fullmatch(r"\S+ +not sure +\d+ ms +unfamiliar", row)
    assert "unfamiliar  The photograph is unlike" in ran.stdout
    assert "4 photographs: 0 answered, 4 not sure, 0 refused." in ran.stdout
    assert not re.search("phil|cyte", ran.stdout.replace(str(cells), ""))
    assert ran.returncode == 0


def test_notes_are_numbered_and_told_once(url, smear, tmp_path):
    """Those that differ in their figures alone are one note, and it is true of all of them."""
    for side in (70, 60, 101):
        smear.resize((side, 70)).save(tmp_path / f"{side}.png")
    ran = run(tmp_path, "--url", url)
    assert all(row.endswith("  1") for row in ran.stdout.splitlines()[1:4])
    said = " ".join(ran.stdout.split())
    assert said.count("was enlarged") == 1
    assert "it is 60 to 101 x 70 pixels, and the model reads 224 x 224." in said


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_bar_and_no_line_that_is_too_long(url, cells, columns):
    """The bar is taken away again, and long names are cut at their beginning."""
    written, status = in_a_terminal(columns, cells, cells / "notes.txt", "--url", url)
    assert status == 1
    assert "█ 5 of 5" in written
    shown = re.sub(r"\r\x1b\[K([^\r\n]*(?=\r))?", "", written)
    assert CONTROL.search(shown) is None
    assert max(map(width, shown.splitlines())) <= columns
    assert "deep/a.png" in shown


@pytest.mark.parametrize("variable", [("TERM", "dumb"), ("PYTHONIOENCODING", "ascii")])
def test_a_poor_terminal_gets_what_it_can_show(url, cells, variable):
    """No bar where the cursor cannot go back; # where there are no blocks."""
    name, value = variable
    written, status = in_a_terminal(80, cells, "--url", url, **{name: value})
    assert status == 0
    assert "█" not in written
    assert ("\x1b" in written) == (name != "TERM")
    assert ("##" in written) == (name != "TERM")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_any_name_is_printed_safely(url, smear, tmp_path, encoding):
    """Bytes that are no text, line ends, escape sequences, emoji; the JSON gives them back."""
    names = [b"odd\xff.png", b"two\nlines.png", b"\x1b[31mred.png", "細胞 🩸.png".encode()]
    for name in names:
        smear.save(tmp_path / os.fsdecode(name))
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ran = run(tmp_path, "--url", url, env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "two\\nlines.png" in ran.stdout
    assert CONTROL.search(ran.stdout) is None
    lines = run(tmp_path, "--url", url, "--json", env=environment).stdout.splitlines()
    found = [os.fsencode(json.loads(line)["file"]) for line in lines]
    assert sorted(found) == sorted(os.fsencode(tmp_path) + b"/" + name for name in names)


# JSON


def test_json_is_a_line_for_each_file_and_nothing_else(url, cells):
    """The same four names in each; the gateway's problem or one of our own in the same shape."""
    named = (cells / "a.png", cells / "notes.txt", cells / "gone.png")
    ran = run(*named, "--json", "--url", url)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["file"] for line in lines] == list(map(str, named))
    assert {tuple(line) for line in lines} == {("file", "reply", "overlay", "problem")}
    answered, refused, missing = lines
    assert answered["reply"]["heatmap"] is None
    assert answered["problem"] is None
    assert refused["reply"] is None
    assert refused["problem"]["type"] == "urn:hemavision:problem:unsupported-media"
    assert missing["problem"]["type"] == "urn:hemavision:problem:unreadable-file"
    assert set(missing["problem"]) == set(refused["problem"])
    assert (ran.returncode, ran.stderr) == (1, "")


def test_json_has_the_maps_numbers_where_they_are_asked_for(url, cells):
    """`--grid`, for any class and at either resolution."""
    ran = run(
        cells / "a.png",
        *("--json", "--grid", "--explain", "monocyte", "--resolution", "coarse", "--url", url),
    )
    heatmap = json.loads(ran.stdout)["reply"]["heatmap"]
    assert heatmap["explained_class"] == "MONOCYTE"
    assert len(heatmap["cells"]) == 4


# overlays


def test_overlays_are_written_where_they_were_wanted(url, cells, smear, tmp_path):
    """In the folders of the photographs; the JSON says where, and leaves the picture out."""
    folder = tmp_path / "new/overlays"
    ran = run(
        *(cells, "--overlay", folder, "--json", "--url", url),
        *("--explain", "eosinophil", "--colormap", "viridis"),
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    names = ["a", "b", "photograph", "deep/a"]
    assert [line["overlay"] for line in lines] == [f"{folder}/{name}.overlay.png" for name in names]
    assert {line["reply"]["heatmap"]["colormap"] for line in lines} == {"viridis"}
    assert "data" not in lines[0]["reply"]["heatmap"]
    assert sum(path.is_file() for path in folder.rglob("*")) == 4
    with Image.open(folder / "deep/a.overlay.png") as overlay:
        assert (overlay.format, overlay.size) == ("PNG", smear.size)


def test_one_overlay_is_named_in_the_answer(url, cells, tmp_path):
    """And the text says where it lies."""
    ran = run(cells / "a.png", "--overlay", tmp_path, "--url", url)
    assert f"Heat map      {tmp_path}/a.overlay.png" in ran.stdout


def test_overlays_of_one_name_are_told_before_anything_is_sent(cells):
    """Nobody listens there, and it is not noticed."""
    ran = run(cells / "a.png", cells, "--overlay", cells, "--url", NOWHERE)
    assert ran.returncode == 2
    assert "the same overlay, a.overlay.png" in ran.stderr


def test_a_place_that_is_no_folder_is_told_before_anything_is_sent(cells):
    """The same for overlays that cannot be written anywhere."""
    ran = run(cells, "--overlay", cells / "a.png", "--url", NOWHERE)
    assert ran.returncode == 2
    assert "File exists" in ran.stderr


def test_an_overlay_that_cannot_be_written_takes_no_answer_away(url, cells, tmp_path):
    """The answer is printed with the problem, the status is 1, and nothing is left aside."""
    (tmp_path / "out/a.overlay.png").mkdir(parents=True)
    ran = run(cells / "a.png", "--overlay", tmp_path / "out", "--json", "--url", url)
    line = json.loads(ran.stdout)
    assert line["reply"]["prediction"]
    assert line["overlay"] is None
    assert line["problem"]["type"] == "urn:hemavision:problem:overlay-not-written"
    assert ran.returncode == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.overlay.png"]


def test_overlays_are_not_classified(cells):
    """Where nothing is left, that is told."""
    ran = run(cells / "a.overlay.png", "--url", NOWHERE)
    assert ran.returncode == 2
    assert f"{cells / 'a.overlay.png'}: an overlay, left out" in ran.stderr
    assert "there is no photograph" in ran.stderr


def test_a_folder_without_photographs_is_told_and_the_rest_is_sent(url, cells, tmp_path):
    """On standard error, with the status of what was sent; its name is printed safely."""
    empty = tmp_path / "emp\nty"
    empty.mkdir()
    ran = run(empty, cells / "a.png", "--json", "--url", url)
    (line,) = ran.stdout.splitlines()
    assert json.loads(line)["reply"]["prediction"]
    assert ran.stderr == f"{tmp_path}/emp\\nty: no photograph in it, left out\n"
    assert ran.returncode == 0


# gateways that fail


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """For how many seconds a command in this process would have slept; it does not."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def test_without_a_gateway_it_says_how_to_start_one(cells):
    """At once, with status 2."""
    ran = run(cells, "--url", NOWHERE)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Connection refused" in ran.stderr
    assert "make run" in ran.stderr


def test_a_busy_gateway_is_asked_again_when_it_says(reply, cells, waits, capsys):
    """429 and 503 with Retry-After, and a connection that breaks: one answer in the end."""
    busy = (says(429, {}, Retry_After="3"), says(503, {}, Retry_After="0"))
    with scripted(*busy, breaks_off, says(200, reply)) as url:
        assert cli.main(["classify", str(cells / "a.png"), "--json", "--url", url]) == 0
    assert waits == [3, 0, 2]
    assert json.loads(capsys.readouterr().out)["reply"] == reply


@pytest.mark.parametrize("seconds", ["0", "3600"])
def test_a_gateway_that_stays_busy_is_told(reply, cells, seconds):
    """After some tries, or at once where it wants more patience than anybody has."""
    told = {"type": "x", "title": "Too many", "status": 429, "detail": "Come back."}
    with scripted(says(200, reply), says(429, told, Retry_After=seconds)) as url:
        ran = run(cells, "--jobs", "1", "--url", url)
    assert ran.returncode == 2
    assert "Too many. Come back." in ran.stderr
    assert "4 photographs: 1 answered, 0 not sure, 0 refused, 3 not tried." in ran.stdout


def test_without_a_model_the_gateways_sentence_is_told(cells, waits, capsys):
    """A real gateway in front of nothing: status 2, no line; four more tries, when it says."""
    with serving("127.0.0.1:1") as url:
        assert cli.main(["classify", str(cells / "a.png"), "--json", "--url", url]) == 2
        assert waits == [1, 1, 1, 1]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "No model answers at the moment." in printed.err


def test_a_gateway_that_goes_away_leaves_what_it_answered(reply, cells, waits, capsys):
    """It is tried again a few times, ever later, then told, and nothing more is sent."""
    with scripted(says(200, reply), breaks_off) as url:
        assert cli.main(["classify", str(cells), "--jobs", "1", "--url", url]) == 2
    assert waits[:4] == [0.5, 1, 2, 4]
    printed = capsys.readouterr()
    assert "nothing answers" in printed.err
    assert "1 answered, 0 not sure, 0 refused, 3 not tried." in printed.out


def test_a_gateway_that_hangs_is_told(cells):
    """After --timeout, and not tried again."""
    never = threading.Event()
    with scripted(lambda _: never.wait() and None) as url:
        ran = run(cells, "--url", url, "--timeout", "0.3")
        never.set()
    assert ran.returncode == 2
    assert "does not answer within 0.3 s" in ran.stderr


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (says(200, b"<html>"), "no HemaVision gateway"),
        (says(200, {"answer": 42}), "no HemaVision gateway"),
        (says(404, b"<html>"), "HTTP 404"),
        (says(401, {"type": "x", "title": "No key", "detail": "Give one."}), "No key. Give one."),
        (says(308, b"", Location="https://x.example/"), "It points to https://x.example/"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"), "no HemaVision gateway"),
    ],
)
def test_what_is_wrong_with_the_gateway_is_told_once(cells, answer, sentence):
    """Not for each photograph."""
    with scripted(answer) as url:
        ran = run(cells, "--url", url)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count(sentence) == 1


def test_a_proxys_refusal_without_words_is_told(cells):
    """What the HTTP status says, in the shape of a problem."""
    with scripted(says(413, b"<html>")) as url:
        ran = run(cells / "a.png", "--json", "--url", url)
    told = json.loads(ran.stdout)["problem"]
    assert (told["type"], told["status"]) == ("about:blank", 413)
    assert ran.returncode == 1


def test_an_option_that_the_gateway_does_not_know_is_told_once(url, cells, tmp_path):
    """In the gateway's words."""
    ran = run(cells, "--overlay", tmp_path / "o", "--colormap", "jett", "--url", url)
    assert ran.returncode == 2
    assert ran.stderr.count("`colormap` is one of") == 1


def test_an_interrupt_prints_what_there_is(reply, cells):
    """Ctrl-C ends it at once, though the gateway hangs: the row, the counts, status 130."""
    never = threading.Event()
    with scripted(says(200, reply), lambda _: never.wait() and None) as url:
        process = subprocess.Popen(
            [HEMAVISION, "classify", cells, "--jobs", "1", "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        head, row = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
        never.set()
    assert head.startswith("file")
    assert "a.png" in row
    assert "4 photographs: 1 answered, 0 not sure, 0 refused, 3 not tried." in rest
    assert (process.returncode, errors) == (130, "")


def test_a_reader_that_has_seen_enough_is_no_error(url, cells):
    """`classify ... | head` ends without a traceback."""
    process = subprocess.Popen(
        [HEMAVISION, "classify", cells, "--url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0
    process.stderr.close()


# what was typed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--grid"],
        ["--json", "--grid", "--overlay", "x"],
        ["--explain", "monocyte"],
        ["--json", "--grid", "--colormap", "jet"],
        ["--jobs", "0"],
        ["--timeout", "nan"],
        ["--url", "127.0.0.1:8080"],
        ["--url", "http://127.0.0.1:eighty"],
        ["--url", "http://127.0.0.1:8080/?x"],
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, capsys):
    """Before anything is sent, with status 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["classify", "cell.png", *arguments])
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_help_names_what_the_service_has(capsys):
    """Every colour map, and every exit status."""
    with pytest.raises(SystemExit):
        cli.main(["classify", "--help"])
    text = capsys.readouterr().out
    for word in (*COLORMAPS, "0 all", "1 some", "2 nothing", "130"):
        assert word in text


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1:8091"), ("::1", "[::1]:8091"), ("10.1.2.3", "10.1.2.3:8091")],
)
def test_the_gateway_is_sought_where_it_would_listen(monkeypatch, capsys, host, address):
    """By the same settings as `serve`."""
    monkeypatch.setenv("HEMAVISION_HOST", host)
    monkeypatch.setenv("HEMAVISION_PORT", "8091")
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    assert f"http://{address}" in capsys.readouterr().out


# check


def test_check_tells_in_one_sentence(url, capsys):
    """Ready and alive: status 0; in front of nothing, alive and not ready; and no gateway."""
    assert cli.main(["check", "--url", url]) == 0
    assert cli.main(["check", "--live", "--url", url]) == 0
    assert capsys.readouterr().out == f"{url}: ready\n{url}: alive\n"
    with serving("127.0.0.1:1") as modelless:
        assert cli.main(["check", "--live", "--url", modelless]) == 0
        assert cli.main(["check", "--url", modelless]) == 1
    assert "No model answers at the moment." in capsys.readouterr().err
    assert cli.main(["check", "--url", NOWHERE]) == 1
    assert "Connection refused" in capsys.readouterr().err


def test_check_waits_until_the_gateway_is_there(model_server):
    """It begins before the gateway does, and ends when that is ready."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    checking = subprocess.Popen(
        [HEMAVISION, "check", "--wait", "60", "--url", f"http://127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    serving_process = subprocess.Popen(
        [HEMAVISION, "serve"],
        env=os.environ | {"HEMAVISION_PORT": str(port), "HEMAVISION_MODEL_SERVER": model_server},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert checking.communicate(timeout=60)[0].endswith(": ready\n")
        assert checking.returncode == 0
    finally:
        serving_process.terminate()
        serving_process.wait(timeout=20)


def test_check_loads_little():
    """Nothing that is slow to import: a probe starts it every few seconds."""
    code = (
        "import sys, gateway.cli\n"
        f"gateway.cli.main(['check', '--url', '{NOWHERE}'])\n"
        "heavy = {'aiohttp', 'grpc', 'numpy', 'PIL', 'asyncio', 'logging', 'dataclasses'}\n"
        "print(heavy & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


# the pure parts


def test_the_crew_keeps_the_order_and_does_not_run_ahead():
    """The first result comes last here; no more than twice as many as there are threads wait."""
    begun: list[int] = []
    second = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            second.wait()
        if number == 1:
            second.set()
        return number

    results = Crew(work, iter(range(1000)), jobs=2).results()
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert max(begun) <= 2 + 2 * 2
    assert list(results) == list(range(3, 1000))


def test_what_moves_the_cursor_is_escaped():
    """Control characters, bytes that are no text, and text that runs backwards."""
    assert printable("a\r\x1b[2Jb") == "a\\r\\x1b[2Jb"
    assert printable("\u202egnp.x") == "\\u202egnp.x"
    assert printable("odd\udcff") == "odd\\udcff"
    assert printable("細胞 ä", "latin-1") == "\\u7d30\\u80de ä"
    assert width("細胞e\u0301") == 5
