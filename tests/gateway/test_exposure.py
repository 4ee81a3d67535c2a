"""What strangers can reach, and what leaks: the address, the headers, the log."""

import io
import socket
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, unused_port
from PIL import Image

from gateway.app import create_app
from gateway.keys import make_key
from gateway.settings import Settings

STRICT = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "hemavision",
}


@pytest.fixture
async def client(aiohttp_client) -> TestClient:
    """A gateway whose model server is not there."""
    return await aiohttp_client(create_app(Settings(model_server=f"127.0.0.1:{unused_port()}")))


@pytest.mark.parametrize("command", ["serve", "up"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_address_without_keys_is_refused(refused, tmp_path, command, host):
    """The sentence names both ways out, and comes before anything else is started."""
    said = refused(command, HOST=host)
    assert "HEMAVISION_KEYS_FILE" in said
    assert "--insecure" in said


def test_a_public_address_is_fine_with_keys_or_on_request(serve, tmp_path):
    """Each of the three ways."""
    keys = tmp_path / "keys.toml"
    keys.write_text(make_key("a")[1])
    for running in (
        serve(HOST="0.0.0.0", KEYS_FILE=keys),
        serve(HOST="0.0.0.0", INSECURE="true"),
        serve("--insecure", HOST="0.0.0.0"),
    ):
        assert running.url.startswith("http://0.0.0.0:")


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_loopback_needs_no_keys(serve, host):
    """However it is spelt."""
    assert serve(HOST=host).url


def test_a_setting_that_is_neither_true_nor_false_is_refused(refused):
    """`1` could be taken for either."""
    assert "HEMAVISION_INSECURE='1': give either true or false" in refused(INSECURE="1")


def test_a_bad_file_is_told_before_the_slow_steps(refused, tmp_path):
    """`hemavision up` reads keys and certificates before it draws and exports."""
    (tmp_path / "file").write_text("[a")
    assert "no TOML" in refused("up", KEYS_FILE=tmp_path / "file")
    assert "no certificate" in refused("up", TLS_CERTIFICATE=tmp_path / "file")
    elsewhere = {"MODEL_SERVER": "127.0.0.1:1", "MODEL_TLS_CA": tmp_path / "file"}
    assert "holds no certificates" in refused("up", **elsewhere)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/page/page.js", 200),
        ("GET", "/livez", 200),
        ("GET", "/v1/reference", 200),
        ("GET", "/metrics", 200),
        ("GET", "/readyz", 503),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/classify", 405),
        ("POST", "/v1/classify", 400),
    ],
)
async def test_every_reply_is_strict(client, method, path, status):
    """Answers and refusals alike; no version of anything; no HSTS where there is no TLS."""
    response = await client.request(method, path)
    assert response.status == status
    assert STRICT.items() <= dict(response.headers).items()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "Strict-Transport-Security" not in response.headers


async def test_the_page_is_alone_and_may_use_nothing(client):
    """No window that it opened or was opened by, no outside address, no plugin; its own camera."""
    headers = (await client.get("/")).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=(self)" in headers["Permissions-Policy"]
    for feature in ("microphone", "geolocation", "payment", "usb"):
        assert f"{feature}=()" in headers["Permissions-Policy"]
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


NOT_HTTP = [
    b"GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\x00\r\n\r\n",
    b"GET /%s \xff HTTP/9.1\r\nHost: x\r\n\r\n",
    b"%s\x00 / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%s" + 9000 * b"x" + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
]


def test_what_is_no_http_is_refused_without_a_version(serve):
    """No middleware sees these, and they are strict all the same."""
    running = serve()
    for request in NOT_HTTP:
        reply = _raw(running.url, request % b"x")
        assert b"400 Bad Request" in reply
        assert b"Server: hemavision\r\n" in reply
        assert b"aiohttp" not in reply


async def test_nothing_of_a_photograph_or_a_key_is_printed(serve, model_server, smear, tmp_path):
    """No file name, no EXIF, no path, no key: answered, refused, broken, or no HTTP at all."""
    key, entry = make_key("lab-a")
    (tmp_path / "keys.toml").write_text(entry)
    running = serve(MODEL_SERVER=model_server, KEYS_FILE=tmp_path / "keys.toml")
    photograph = _telling_photograph(smear)
    connections = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(running.url, connector=connections) as session:
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": "hv_telling"}):
            for send in _ways(photograph):
                async with session.post(**send | {"headers": headers | send["headers"]}) as reply:
                    await reply.read()
        keyed = {"X-API-Key": key}
        async with session.post("/v1/classify", data=_form(photograph), headers=keyed) as answer:
            assert (await answer.json())["prediction"]
    for request in NOT_HTTP:
        _raw(running.url, request % b"telling")
        _raw(running.url, request % key.encode())
    printed = running.printed()
    assert printed.count("/v1/classify") > 10  # the log was on
    assert "lab-a" in printed
    assert "no HTTP" in printed
    for secret in ("telling", key, key[3:], "hv_", "48.85", "2.29", "JFIF", "Exif"):
        assert secret.lower() not in printed.lower(), secret
    assert "Traceback" not in printed


def _telling_photograph(smear: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0x8298] = "telling"  # description, artist, copyright
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.2), 3: "E", 4: (2.0, 17.0, 40.2)})
    buffer = io.BytesIO()
    smear.save(buffer, "JPEG", exif=exif, comment=b"telling")
    return buffer.getvalue()


def _form(photograph: bytes, field: str = "file") -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field(field, photograph, filename="telling name.jpg", content_type="image/jpeg")
    return form


def _ways(photograph: bytes) -> list[dict]:
    """Requests that hold the word `telling` wherever a word can be put."""
    multipart = {"Content-Type": "multipart/form-data; boundary=telling"}
    odd = (
        b"--telling\r\nContent-Disposition: form-data; name=\"telling\"; filename*=utf-8''telling;"
        b' filename="../telling\x00"\r\nX-Telling: telling\r\n\r\n'
    )
    ways = [
        ("/v1/classify", _form(photograph), {}),
        ("/v1/heatmap", _form(photograph), {}),
        ("/predict", _form(photograph), {}),
        ("/v1/classify", _form(photograph, "telling"), {}),
        ("/v1/classify", _form(photograph[:3000]), {}),
        ("/v1/classify", _form(b"telling"), {}),
        ("/v1/classify?explain=telling", _form(photograph), {}),
        ("/v1/classify?telling=1", _form(photograph), {}),
        ("/telling", _form(photograph), {}),
        ("/v1/classify", odd, multipart),
        ("/v1/classify", b"--telling\r\ntelling\r\n\r\n", multipart),
        ("/v1/classify", photograph, {"Content-Type": "telling/telling"}),
        ("/v1/classify", photograph, {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}),
        ("/v1/classify", photograph, {"X-Request-ID": "a telling one"}),
    ]
    return [{"url": url, "data": data, "headers": headers} for url, data, headers in ways]


def _raw(url: str, request: bytes) -> bytes:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        reply = b""
        while chunk := connection.recv(65536):
            reply += chunk
    return reply
