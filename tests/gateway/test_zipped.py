"""Hostile and odd zips, sent to the real gateway: each entry is a problem, or the whole a 4xx."""

import io
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient

from gateway.app import create_app
from gateway.settings import Settings
from gateway.smear import shown_name

ROUTE = "/v1/differential"
ZIP = {"Content-Type": "application/zip"}
MOST = 50_000


@pytest.fixture(scope="module")
def cell(smear) -> bytes:
    buffer = io.BytesIO()
    smear.resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
async def client(aiohttp_client, model_server) -> TestClient:
    settings = Settings(
        model_server=model_server, max_bytes=MOST, max_series=30, max_series_bytes=600_000
    )
    return await aiohttp_client(create_app(settings))


def archive(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        for name, data in files:
            zipped.writestr(name, data)
    return buffer.getvalue()


def directory_at(data: bytes) -> int:
    return struct.unpack_from("<I", data, data.rindex(b"PK\5\6") + 16)[0]


def changed(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


async def first(client: TestClient, data: bytes) -> dict:
    """What became of the first entry; the second is a cell that is counted."""
    response = await client.post(ROUTE, data=data, headers=ZIP)
    assert response.status == 200, await response.text()
    bad, good = (await response.json())["photographs"]
    assert (bad["status"], good["status"]) == ("failed", "counted")
    return bad["problem"] | {"name": bad["name"]}


async def is_refused(response, status: int, name: str) -> str:
    body = await response.json(content_type="application/problem+json")
    assert (response.status, body["type"].rsplit(":", 1)[1]) == (status, name), body
    return body["detail"]


async def test_a_nested_zip_is_not_opened(client, cell):
    """Whatever is in it."""
    problem = await first(client, archive(("inner.zip", archive(("a.png", cell))), ("b.png", cell)))
    assert problem["status"] == 415
    assert "zip inside a zip" in problem["detail"]


async def test_an_encrypted_entry_is_told(client, cell):
    """By the flag of its directory entry."""
    data = archive(("a.png", cell), ("b.png", cell))
    data = changed(data, directory_at(data) + 8, b"\1\0")
    assert "password" in (await first(client, data))["detail"]


async def test_an_entry_on_another_disk_is_told(client, cell):
    """A zip in parts."""
    data = archive(("a.png", cell), ("b.png", cell))
    data = changed(data, directory_at(data) + 34, b"\1\0")
    assert "another disk" in (await first(client, data))["detail"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 98])
async def test_other_compressions_are_told(client, cell, method):
    """bzip2 and LZMA can inflate without measure; the others Python does not know."""
    data = archive(("a.png", cell), ("b.png", cell))
    data = changed(data, directory_at(data) + 10, struct.pack("<H", method))
    assert "Deflate" in (await first(client, data))["detail"]


async def test_a_damaged_entry_is_told(client, cell):
    """Its checksum is wrong; its name is not the same as in the directory; it ends too early."""
    data = archive(("a.png", cell), ("b.png", cell))
    place = directory_at(data)
    for bad in (
        changed(data, place + 16, b"\0\0\0\0"),
        changed(data, 30, b"x"),
        changed(data, place + 20, struct.pack("<I", 20)),
        changed(data, place + 42, struct.pack("<I", 7)),
    ):
        assert "damaged" in (await first(client, bad))["detail"]


async def test_what_inflates_to_too_much_is_told_and_not_inflated(client, cell):
    """By its directory; one that lies there is no larger for it."""
    bomb = bytes(100 * MOST)
    problem = await first(client, archive(("bomb.png", bomb), ("b.png", cell)))
    assert (problem["status"], "50,000 bytes" in problem["detail"]) == (413, True)
    data = archive(("bomb.png", bomb), ("b.png", cell))
    lying = changed(data, directory_at(data) + 24, struct.pack("<I", 1000))
    assert "damaged" in (await first(client, lying))["detail"]


async def test_many_entries_that_inflate_to_too_much_are_refused_at_once(client):
    """The sum counts: 20 of 50,000 bytes each, in a zip of a few kilobytes."""
    data = archive(*((f"{n}.png", bytes(MOST)) for n in range(20)))
    response = await client.post(ROUTE, data=data, headers=ZIP)
    assert "1,000,000 bytes" in await is_refused(response, 413, "series-too-large")


async def test_several_zips_together_inflate_to_no_more_than_one(client):
    """A second one in the form has what the first left."""
    half = archive(*((f"{n}.png", bytes(MOST)) for n in range(8)))
    form = aiohttp.FormData()
    for _ in range(2):
        form.add_field("file", half, filename="half.zip")
    response = await client.post(ROUTE, data=form)
    assert "room for 200,000" in await is_refused(response, 413, "series-too-large")


async def test_entries_that_share_their_bytes_are_counted_as_often(client):
    """A directory of 20 names for the same bytes is no way round the limit."""
    data = archive(("0.png", bytes(MOST)))
    place, end = directory_at(data), data.rindex(b"PK\5\6")
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 20, 20, 20 * (end - place))
    data = data[:place] + 20 * data[place:end] + bytes(tail)
    response = await client.post(ROUTE, data=data, headers=ZIP)
    await is_refused(response, 413, "series-too-large")


async def test_a_directory_without_end_is_refused_unread(aiohttp_client, model_server):
    """Zipfile would make an object of each of its entries before anybody could count them."""
    client = await aiohttp_client(create_app(Settings(model_server=model_server, max_series=30)))
    data = archive(("x", b""))
    place, end = directory_at(data), data.rindex(b"PK\5\6")
    times = 3_000_000 // (end - place)
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 65_535, 65_535, times * (end - place))
    bomb = data[:place] + times * data[place:end] + bytes(tail)
    response = await client.post(ROUTE, data=io.BytesIO(bomb), headers=ZIP)
    assert "directory" in await is_refused(response, 413, "series-too-large")


@pytest.mark.parametrize("seed", range(40))
async def test_damaged_zips_are_never_a_fault_of_ours(client, cell, seed):
    """Bytes changed anywhere: a count, with problems in it, or a 4xx."""
    dice = random.Random(seed)
    data = bytearray(archive(("a.png", cell), ("b/c.png", b"x"), ("d.png", bytes(1000))))
    place = directory_at(data)
    for _ in range(1 + seed % 6):
        spot = dice.randrange(place, len(data)) if seed % 2 else dice.randrange(len(data))
        data[spot] = dice.randrange(256)
    response = await client.post(ROUTE, data=bytes(data), headers=ZIP)
    assert response.status in (200, 400, 413, 422)


async def test_a_name_that_is_no_text_is_a_sentence(client, cell):
    """It says that it is UTF-8, and is not."""
    data = archive(("é.png", cell))
    bad = data.replace("é".encode(), b"\xff\xfe")
    assert "UTF-8" in await is_refused(
        await client.post(ROUTE, data=bad, headers=ZIP), 422, "unreadable-zip"
    )


async def test_names_are_never_a_path(client, cell, tmp_path, monkeypatch):
    """Upwards, from the root, of Windows, with a zero: shown without it, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    names = ["../../a.png", "/etc/b.png", "c:\\d.png", "e\x07.png", "\u202eg.png"]
    data = archive(*((zipfile.ZipInfo(name), cell + bytes([n])) for n, name in enumerate(names)))
    body = await (await client.post(ROUTE, data=data, headers=ZIP)).json()
    shown = [photograph["name"] for photograph in body["photographs"]]
    assert shown == ["a.png", "b.png", "d.png", "e.png", "g.png"]
    assert list(tmp_path.iterdir()) == []


async def test_a_mixed_folder_is_counted_as_far_as_it_can_be(client, cell):
    """What a system adds of itself is passed over; what a person put there is told."""
    data = archive(
        ("slide/", b""),
        ("slide/cell.png", cell),
        ("slide/notes.txt", b"Monday"),
        ("slide/table.csv", b"1,2"),
        ("slide/.DS_Store", b"x"),
        ("slide/Thumbs.db", b"x"),
        ("slide/desktop.ini", b"x"),
        ("__MACOSX/slide/._cell.png", b"x"),
    )
    body = await (await client.post(ROUTE, data=data, headers=ZIP)).json()
    told = [(p["name"], p["status"]) for p in body["photographs"]]
    assert told == [("cell.png", "counted"), ("notes.txt", "failed"), ("table.csv", "failed")]


def test_names_without_anything_to_show_are_none():
    """Nothing, folders, controls alone."""
    assert [shown_name(name) for name in (None, "", "a/", "\x00\u200b")] == 4 * [None]


@contextmanager
def process(model_server: str, **settings: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`hemavision serve`, with these settings."""
    given = {"PORT": "0", "MODEL_SERVER": model_server, "SERIES_DEADLINE": "300"} | settings
    with subprocess.Popen(
        [Path(sys.executable).with_name("hemavision"), "serve"],
        env=os.environ | {f"HEMAVISION_{name}": value for name, value in given.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        try:
            yield running, running.stdout.readline().split()[-1]
        finally:
            running.terminate()


def send(url: str, body: object, kind: str) -> tuple[int, dict]:
    """Post one body; status and JSON of the reply."""
    request = urllib.request.Request(url + ROUTE, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_series_is_never_in_memory_as_a_whole(model_server, smear):
    """200 MB of photographs, in a form and in a zip, and a bomb of a gigabyte, in under 300 MB."""
    buffer = io.BytesIO()
    smear.resize((600, 600)).save(buffer, "BMP")  # 1 MB
    photographs = [buffer.getvalue() + bytes([n]) for n in range(200)]
    head = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    form = b"".join(head + data + b"\r\n" for data in photographs) + b"--b--\r\n"
    stored = archive(
        *((f"{n}.bmp", data) for n, data in enumerate(photographs)), method=zipfile.ZIP_STORED
    )
    bomb = archive(*((f"{n}.bmp", bytes(16 * 2**20)) for n in range(60)))
    with process(model_server) as (running, url):
        for body, kind in ((form, "multipart/form-data; boundary=b"), (stored, "application/zip")):
            status, counted = send(url, body, kind)
            assert (status, counted["totals"]["photographs"]) == (200, 200)
            assert counted["totals"]["duplicates"] == 199
        assert send(url, bomb, "application/zip")[0] == 422
        said = Path(f"/proc/{running.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) < 300 * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_zips_of_a_form_are_in_memory_one_at_a_time(model_server):
    """60 that are kept in memory while they are read, 234 MB together, in under 200 MB."""
    noise = archive(("a.bmp", bytes(3_900_000)), method=zipfile.ZIP_STORED)
    part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + noise + b"\r\n"
    with process(model_server) as (running, url):
        form = 60 * part + b"--b--\r\n"
        assert send(url, form, "multipart/form-data; boundary=b")[0] == 422
        said = Path(f"/proc/{running.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) < 200 * 1024


def test_no_disk_for_a_large_zip_is_told(model_server, cell):
    """507 for what would go to a file; smaller zips, and forms of any size, are counted."""
    noise = random.Random(1).randbytes(6 * 2**20)
    with process(model_server) as (running, url):
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
        status, problem = send(url, archive(("a.png", noise)), "application/zip")
        assert (status, problem["type"]) == (507, "urn:hemavision:problem:no-room")
        assert send(url, archive(("a.png", cell)), "application/zip")[0] == 200
