"""API keys: the file, the rate, what needs one, and what strangers are told."""

import hashlib
import json
import logging
import os
import re

import pytest
from aiohttp.test_utils import TestClient, unused_port
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import cli
from gateway.access import OPEN
from gateway.app import create_app, describe_api
from gateway.errors import KeyRequired, RateExceeded, SettingsError
from gateway.keys import Bucket, Keys, make_key, read_keys
from gateway.logs import JsonLines
from gateway.settings import Settings

unhurried = settings(deadline=None)
HASH = hashlib.sha256(b"hv_secret").hexdigest()


def admit(keys: Keys, key: str | None) -> str:
    """What the gate does: find the key's name, and use it once."""
    found = keys.find(key)
    keys.spend(found)
    return found.name


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """In seconds."""
        return self.now


@pytest.fixture
def keys_file(tmp_path):
    """Two keys: `hv_secret`, limited to two requests a minute, and `hv_free`."""
    path = tmp_path / "keys.toml"
    free = hashlib.sha256(b"hv_free").hexdigest()
    path.write_text(f'[lab-a]\nsha256 = "{HASH}"\nper_minute = 2\n[lab-b]\nsha256 = "{free}"\n')
    return path


@pytest.fixture
async def client(aiohttp_client, keys_file) -> TestClient:
    """A gateway that asks for keys; its model server is not there."""
    server = f"127.0.0.1:{unused_port()}"
    return await aiohttp_client(create_app(Settings(model_server=server, keys_file=keys_file)))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_made_key_is_admitted_and_is_not_in_its_entry(tmp_path):
    """The file holds the hash alone, and 256 bits make the key."""
    key, entry = make_key("lab-a", per_minute=120)
    (tmp_path / "keys").write_text(entry)
    (stored,) = read_keys(tmp_path / "keys")
    assert (stored.name, stored.per_minute) == ("lab-a", 120)
    assert key not in entry
    assert len(key) == len("hv_") + 43  # 32 bytes in base64
    assert admit(Keys(tmp_path / "keys"), key) == "lab-a"
    assert make_key("lab-a")[0] != key


def test_the_console_makes_a_key_whose_entry_can_be_appended(tmp_path, capsys):
    """Standard output is the entry alone; the key is shown on standard error."""
    assert cli.main(["key", "lab-a"]) == 0
    assert cli.main(["key", "lab-b", "--per-minute", "60"]) == 0
    printed = capsys.readouterr()
    (tmp_path / "keys").write_text(printed.out)
    keys = Keys(tmp_path / "keys")
    assert [admit(keys, key) for key in re.findall(r"hv_\S+", printed.err)] == ["lab-a", "lab-b"]


@pytest.mark.parametrize("arguments", [["a b"], ["a]\n[b"], [""], ["a", "--per-minute", "0"]])
def test_the_console_refuses_a_name_or_rate_that_makes_no_sense(arguments, capsys):
    """Status 2 and a sentence, and no key."""
    assert cli.main(["key", *arguments]) == 2
    printed = capsys.readouterr()
    assert "The new key" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "holds no key"),
        ("# nobody", "holds no key"),
        ("[a", "no TOML: line 1 cannot be read"),
        ("a = [", "no TOML: its end cannot be read"),
        ("\n[a]\nsha256 = hv_secret\n", "no TOML: line 3 cannot be read"),
        ("\udcff", "no TOML: it is not UTF-8"),
        (f'[a]\nsha256 = "{HASH}"\n[a]\n', "no TOML: line 3 gives a name that was given before"),
        ('[a]\nsha256 = "hv_secret"\nsha256 = "hv_secret"', "line 3 gives a name that was given"),
        ("a = 1", "sha256"),
        ("[a]\nper_minute = 3", "sha256"),
        (f'["a b"]\nsha256 = "{HASH}"', "A-Z"),
        ('[a]\nsha256 = "hv_secret"', "64 of 0-9"),
        (f'[a]\nsha256 = "{HASH.upper()}"', "64 of 0-9"),
        ("[a]\nsha256 = 5", "64 of 0-9"),
        (f'[a]\nsha256 = "{HASH}"\nrate = 3', "per_minute"),
        (f'[a]\nsha256 = "{HASH}"\nper_minute = 0', "above 0"),
        (f'[a]\nsha256 = "{HASH}"\nper_minute = true', "above 0"),
        (f'[a]\nsha256 = "{HASH}"\nper_minute = inf', "above 0"),
    ],
)
def test_a_file_that_makes_no_sense_stops_the_start(tmp_path, text, word):
    """With a sentence that names the file and never quotes what may be a key."""
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=re.escape(str(path))) as refusal:
        create_app(Settings(keys_file=path))
    assert word in str(refusal.value)
    assert "hv_secret" not in str(refusal.value)


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path):
    """A folder, say."""
    with pytest.raises(SettingsError, match="cannot be read"):
        Keys(tmp_path)


@pytest.mark.parametrize("key", [None, "", "hv_wrong", "hv_secre", "hv_secret ", "é", "\udcff"])
def test_no_key_and_a_wrong_one_are_refused_alike(keys_file, key):
    """The sentence does not tell which it was."""
    keys, told = Keys(keys_file), []
    for given_key in (key, None):
        with pytest.raises(KeyRequired) as refusal:
            admit(keys, given_key)
        told.append(str(refusal.value))
    assert told[0] == told[1]


def test_a_key_is_limited_and_the_others_are_not(keys_file):
    """Two at once, then one each half minute; the wait that is told is the wait that is needed."""
    clock = Clock()
    keys = Keys(keys_file, clock)
    assert [admit(keys, "hv_secret") for _ in range(2)] == ["lab-a", "lab-a"]
    with pytest.raises(RateExceeded) as refusal:
        admit(keys, "hv_secret")
    assert refusal.value.retry_after == 30
    assert [admit(keys, "hv_free") for _ in range(100)] == ["lab-b"] * 100
    clock.now += 29.9
    with pytest.raises(RateExceeded):
        admit(keys, "hv_secret")
    clock.now += 0.2
    assert admit(keys, "hv_secret") == "lab-a"


@unhurried
@given(
    per_minute=st.floats(0.1, 10_000), pauses=st.lists(st.floats(0, 100), min_size=1, max_size=60)
)
def test_no_bucket_gives_more_than_its_rate(per_minute, pauses):
    """At most one minute's requests at once, and the rate from then on, whenever they come."""
    bucket, now, taken = Bucket(per_minute), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.wait(now) == 0
    assert taken <= max(1, per_minute) + per_minute * now / 60 + 1e-6


@unhurried
@given(per_minute=st.floats(0.1, 10_000))
def test_who_waits_as_told_is_let_in(per_minute):
    """Retry-After is no guess."""
    bucket, now = Bucket(per_minute), 0.0
    while (seconds := bucket.wait(now)) == 0:
        pass
    assert bucket.wait(now + seconds + 1e-6) == 0


def test_a_file_that_changed_is_read_again(keys_file):
    """A revoked key ends and a new one works, without a restart; used up rates stay used up."""
    clock = Clock()
    keys = Keys(keys_file, clock)
    for _ in range(2):
        admit(keys, "hv_secret")
    new, entry = make_key("lab-c")
    text = keys_file.read_text()
    keys_file.write_text(text[: text.index("[lab-b]")] + entry)
    clock.now += 3
    assert admit(keys, new) == "lab-c"
    with pytest.raises(KeyRequired):
        admit(keys, "hv_free")
    with pytest.raises(RateExceeded):
        admit(keys, "hv_secret")


def test_a_secret_that_is_swapped_by_a_link_is_read_again(tmp_path):
    """As Kubernetes does it: the file is a link, over a folder that is a link."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        digest = hashlib.sha256(name.encode()).hexdigest()
        (tmp_path / name / "keys").write_text(f'[a]\nsha256 = "{digest}"\n')
        os.utime(tmp_path / name / "keys", (1, 1))
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "keys").symlink_to("data/keys")
    clock = Clock()
    keys = Keys(tmp_path / "keys", clock)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    clock.now += 3
    assert admit(keys, "two") == "a"
    with pytest.raises(KeyRequired):
        admit(keys, "one")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("[a"),
        lambda path: path.write_text(""),
        lambda path: path.unlink(),
    ],
    ids=["broken", "emptied", "gone"],
)
def test_a_file_that_was_spoilt_keeps_the_old_keys(keys_file, caplog, spoil):
    """It is told once, as an error, and mended by the next good file."""
    clock = Clock()
    keys, good = Keys(keys_file, clock), keys_file.read_text()
    spoil(keys_file)
    for _ in range(3):
        clock.now += 3
        assert admit(keys, "hv_free") == "lab-b"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert str(keys_file) in record.getMessage()
    keys_file.write_text(good.replace("lab-b", "lab-c"))
    clock.now += 3
    assert admit(keys, "hv_free") == "lab-c"


@pytest.mark.parametrize(("count", "told"), [(1, "1 key"), (2, "2 keys")])
def test_how_many_keys_there_are_now_is_told(keys_file, caplog, count, told):
    """After each change."""
    clock = Clock()
    keys = Keys(keys_file, clock)
    keys_file.write_text("".join(make_key(f"lab-{number}")[1] for number in range(count)))
    clock.now += 3
    with caplog.at_level(logging.INFO, "gateway.keys"), pytest.raises(KeyRequired):
        admit(keys, "hv_free")
    assert [record.getMessage() for record in caplog.records] == [f"{keys_file}: {told}"]


def test_the_description_says_where_a_key_is_needed():
    """On the routes that the gate closes, and on no other."""
    for path, operations in describe_api()["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) is (path not in OPEN), path
            assert ("401" in operation["responses"]) is (path not in OPEN), path


async def test_every_route_but_the_open_ones_needs_a_key(client):
    """A new route is closed until somebody opens it; a browser's OPTIONS can bring no key."""
    for route in client.app.router.routes():
        if route.method == "OPTIONS":
            continue
        path = route.resource.canonical.replace("{name}", "page.js")
        response = await client.request(route.method, path)
        assert (response.status == 401) is (route.resource.canonical not in OPEN), path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("hv_wrong"),
        {"Authorization": "Basic aHZfc2VjcmV0"},
        {"Authorization": "hv_secret"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "hv_wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": "\u00e9"},
    ],
)
async def test_a_stranger_is_refused(client, headers):
    """401 with how to come in, before the photograph is looked at."""
    response = await client.post("/v1/classify", data=b"no photograph", headers=headers)
    body = await response.json(content_type=None)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="hemavision"'
    assert body["type"] == "urn:hemavision:problem:key-required"
    assert "X-API-Key" in body["detail"]


@pytest.mark.parametrize(
    "headers", [bearer("hv_free"), {"Authorization": "bearer  hv_free"}, {"X-API-Key": "hv_free"}]
)
async def test_a_key_opens_and_its_name_is_in_the_log(client, caplog, headers):
    """The name, never the key; past the gate it is the photograph's turn to be refused."""
    with caplog.at_level(logging.INFO, "gateway.access"):
        response = await client.post("/v1/classify", data=b"no photograph", headers=headers)
    assert response.status == 415
    (record,) = caplog.records
    line = JsonLines().format(record)
    assert json.loads(line)["client"] == "lab-b"
    assert "hv_free" not in line


async def test_too_many_requests_with_one_key(client, caplog):
    """429 says when to come back, and for whom it is; the log says whose key it was."""
    caplog.set_level(logging.DEBUG, "gateway.access")
    statuses = [(await client.get("/metrics", headers=bearer("hv_secret"))).status for _ in "ab"]
    response = await client.get("/metrics", headers=bearer("hv_secret"))
    body = await response.json(content_type=None)
    assert statuses == [200, 200]
    assert response.status == 429
    assert 0 < int(response.headers["Retry-After"]) <= 30
    assert body["type"] == "urn:hemavision:problem:rate-exceeded"
    assert "lab-a" in body["detail"]
    assert json.loads(JsonLines().format(caplog.records[-1]))["client"] == "lab-a"


async def test_paths_that_lead_nowhere_and_wrong_methods_need_no_key(client):
    """There is nothing behind them to keep."""
    assert (await client.get("/v2/classify")).status == 404
    assert (await client.get("/v1/classify")).status == 405


async def test_without_a_keys_file_nobody_is_asked(aiohttp_client):
    """As on a laptop."""
    server = f"127.0.0.1:{unused_port()}"
    client = await aiohttp_client(create_app(Settings(model_server=server)))
    assert (await client.get("/metrics")).status == 200


def test_the_console_brings_a_key(serve, keys_file, smear, tmp_path, monkeypatch, capsys):
    """From the option or the environment; without one, the gateway's own words and status 2."""
    smear.save(tmp_path / "cell.png")
    running = serve(KEYS_FILE=keys_file, MODEL_SERVER="127.0.0.1:1")
    send = ["classify", str(tmp_path / "cell.png"), "--url", running.url]
    assert cli.main(send) == 2
    assert "give it as --key or HEMAVISION_KEY" in capsys.readouterr().err
    monkeypatch.setenv("HEMAVISION_KEY", "hv_free\n")
    assert cli.main(["check", "--live", "--url", running.url]) == 0
    (tmp_path / "cell.png").write_text("no picture")
    assert cli.main(send) == 1
    assert cli.main([*send, "--key", "hv_secret"]) == 1
    assert capsys.readouterr().err.count("JPEG") == 2


def test_a_key_that_is_none_is_refused_before_it_is_sent(capsys):
    """A header holds no spaces; and the sentence does not repeat what may be a key."""
    with pytest.raises(SystemExit):
        cli.main(["classify", "x.png", "--key", "hv_se cret"])
    said = capsys.readouterr().err
    assert "without spaces" in said
    assert "hv_se" not in said
