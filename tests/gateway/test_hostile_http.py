"""Hostile and odd HTTP: always a 4xx that says why, and the next good request is answered."""

import asyncio
import gzip
import json
import zlib

import pytest

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
FORM = "multipart/form-data; boundary=b"


async def exchange(served, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; return status, headers in lower case and body of the reply."""
    reader, writer = await asyncio.open_connection(served.host, served.port)
    try:
        async with asyncio.timeout(20):
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().splitlines()
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:-1])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            return int(lines[0].split()[1]), headers, body
    finally:
        writer.close()


def request(content_type: str, body: bytes, path: str = "/v1/classify", **headers: str) -> bytes:
    """A POST; a header whose value is empty is left out."""
    fields = {"Host": "x", "Content-Type": content_type, "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def part(data: bytes, head: str = 'Content-Disposition: form-data; name="file"') -> bytes:
    return b"--b\r\n" + head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


async def is_refused(served, *problems: tuple[int, str], sent: bytes) -> str:
    """The reply is one of these problems, by status and name; return what it says."""
    status, headers, body = await exchange(served, sent)
    assert headers["content-type"].startswith("application/problem+json"), body
    problem = json.loads(body)
    assert problem["status"] == status
    assert (status, problem["type"].removeprefix("urn:hemavision:problem:")) in problems
    assert problem["request_id"] == headers["x-request-id"]
    assert len(problem["detail"]) > 15
    return problem["detail"]


@pytest.fixture(autouse=True)
async def _goes_on(served, jpeg):
    """Whatever was sent: it is no 5xx in the log, and the next good request is answered."""
    before = served.log.stat().st_size
    yield
    status, _, body = await exchange(served, request("image/jpeg", jpeg))
    assert (status, "prediction" in json.loads(body)) == (200, True)
    said = served.log.read_bytes()[before:]
    assert b"Traceback" not in said, said
    assert b'"status": 5' not in said, said


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # TLS where there is none
        b"GET / HTTP/9.9\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /" + 9000 * b"a" + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + 9000 * b"a" + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + 200 * b"X: a\r\n" + b"\r\n",
        HEAD + b"Content-Length: abc\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:30]),
)
async def test_what_is_no_http_is_refused_as_a_problem(served, raw):
    """The parser's own refusals speak the same language as the rest."""
    assert "HTTP" in await is_refused(served, (400, "malformed-request"), sent=raw)


async def test_what_is_no_http_is_counted(served):
    """Among the requests and among the errors, without anything that a client made up."""
    await is_refused(served, (400, "malformed-request"), sent=b"MADEUP\x00 / HTTP/1.1\r\n\r\n")
    _, _, text = await exchange(served, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b'hemavision_requests_total{method="other",route="unknown",status="400"}' in text
    assert b'hemavision_errors_total{problem="malformed-request"} 0.0' not in text
    assert b"MADEUP" not in text


async def test_an_expectation_that_is_not_understood_is_ignored(served, jpeg):
    """RFC 9110 allows that, and aiohttp would refuse it in plain text."""
    status, _, _ = await exchange(served, request("image/jpeg", jpeg, Expect="tea"))
    assert status == 200
    await is_refused(
        served, (404, "not-found"), sent=request("image/jpeg", b"", "/nothing", Expect="tea")
    )


@pytest.mark.parametrize("content_type", ["image/jpeg", FORM])
@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nabcdefgh\r\n"])
async def test_a_chunk_of_a_wrong_length_is_refused(served, content_type, chunk):
    """At once, or where aiohttp goes on waiting for the body, when its time is over."""
    head = request(content_type, b"", Content_Length="", Transfer_Encoding="chunked")
    await is_refused(
        served, (400, "malformed-request"), (408, "upload-too-slow"), sent=head + chunk
    )


async def test_more_bytes_than_told_are_another_request(served, jpeg):
    """The photograph ends where its length says; the rest is no HTTP."""
    raw = request("image/jpeg", jpeg, Content_Length=str(len(jpeg) // 2))
    either = (422, "unreadable-photograph"), (400, "malformed-request")
    await is_refused(served, *either, sent=raw)


@pytest.mark.parametrize("content_type", ["image/jpeg", FORM])
async def test_fewer_bytes_than_told_are_waited_for_but_not_for_ever(served, jpeg, content_type):
    """A body that stops, or drips, is refused with 408."""
    raw = request(content_type, jpeg[:100], Content_Length=str(len(jpeg)))
    assert "time was over" in await is_refused(served, (408, "upload-too-slow"), sent=raw)


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("GZIP", gzip.compress),
    ],
)
async def test_an_encoding_that_is_known_is_undone(served, jpeg, coding, encode):
    """The photograph is what is inside."""
    raw = request("image/jpeg", encode(jpeg), Content_Encoding=coding)
    status, _, _ = await exchange(served, raw)
    assert status == 200


@pytest.mark.parametrize("content_type", ["image/jpeg", FORM])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_an_encoding_that_is_not_the_bodys_is_refused(served, jpeg, content_type, coding):
    """Named, but not so."""
    raw = request(content_type, jpeg, Content_Encoding=coding)
    await is_refused(served, (400, "malformed-request"), sent=raw)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "x\xff"])
async def test_an_encoding_that_is_not_read_here_is_refused(served, jpeg, coding):
    """By us, or by aiohttp where it knows the name and cannot read it."""
    raw = request("image/jpeg", jpeg, Content_Encoding=coding)
    await is_refused(served, (400, "malformed-request"), (415, "unsupported-media"), sent=raw)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("image/jpeg", bytes(20_000_000)), (FORM, part(bytes(20_000_000))), (FORM, 9**6 * b"a\r\n")],
    ids=["photograph", "part", "preamble"],
)
async def test_a_small_body_that_unpacks_into_a_large_one_is_cut_off(served, content_type, body):
    """The bytes that count are those that come out."""
    raw = request(content_type, gzip.compress(body), Content_Encoding="gzip")
    await is_refused(served, (413, "photograph-too-large"), sent=raw)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--wrong\r\n",
        b"--b",
        b"--b\r\n",
        form(part(b"x"))[:-9],  # no last border
        b"--b\r\nContent-Disposition: form-data",
        form(b"--b\r\nno header at all\r\n\r\nx\r\n"),
        form(part(b"x", 200 * "X: y\r\n" + "Z: z")),
        form(part(b"x", "X: " + 9000 * "y")),
        form(
            part(
                b"x", 'Content-Disposition: form-data; name="file"\r\nContent-Type: multipart/mixed'
            )
        ),
        form(
            part(
                b"--c\r\n\r\nx\r\n--c--\r\n",
                'Content-Disposition: form-data; name="file"\r\n'
                "Content-Type: multipart/mixed; boundary=c",
            )
        ),
        form(part(40 * b"x", 'Content-Disposition: form-data; name="_charset_"')),
        form(part(b"\xff\xfe", 'Content-Disposition: form-data; name="_charset_"')),
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_a_broken_form_is_refused(served, body):
    """Borders, heads and forms inside forms."""
    await is_refused(served, (400, "malformed-request"), sent=request(FORM, body))


@pytest.mark.parametrize(
    "head",
    [
        "X-No: name",
        "Content-Disposition: form-data",
        "Content-Disposition: ;;;=;",
        'Content-Disposition: form-data; name="a"; name="file"',
        'Content-Disposition: form-data; name="\udcff\udcfe"',
        "Content-Disposition: form-data; name*=utf-8''%ff%fe",
        "Content-Disposition: form-data; name*=no-such-code''%66ile",
        'Content-Disposition: form-data; name="' + 4000 * "f" + '"',
    ],
)
async def test_a_part_without_a_readable_name_is_no_photograph(served, jpeg, head):
    """Whatever stands there, the reply is text that can be read."""
    raw = request(FORM, form(part(jpeg, head)))
    assert "`file`" in await is_refused(served, (400, "missing-photograph"), sent=raw)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + 71 * "b",
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=\xff",
        'multipart/form-data; boundary="',
    ],
)
async def test_a_wrong_boundary_is_refused(served, jpeg, content_type):
    """Missing, empty, too long, not the form's own, or no text."""
    await is_refused(
        served, (400, "malformed-request"), sent=request(content_type, form(part(jpeg)))
    )


@pytest.mark.parametrize(
    "content_type", ["multipart/mixed; boundary=b", "text/plain", "a/b/c", "application/json"]
)
async def test_other_bodies_are_refused(served, jpeg, content_type):
    """Told what to send instead."""
    raw = request(content_type, form(part(jpeg)))
    await is_refused(served, (415, "unsupported-media"), sent=raw)


async def test_thousands_of_parts_are_refused(served):
    """At the first one past the limit."""
    raw = request(
        FORM,
        form(*(part(b"x", f'Content-Disposition: form-data; name="{n}"') for n in range(5000))),
    )
    assert "5 parts" in await is_refused(served, (413, "too-many-parts"), sent=raw)


@pytest.mark.parametrize(
    "flood",
    [
        b"preamble\r\n",  # before the first border
        b"--b\r\n" + 100 * (b"X: " + 80 * b"y" + b"\r\n"),  # borders and heads, never a part
        part(bytes(5000), 'Content-Disposition: form-data; name="x"'),
        part(b"", 'Content-Disposition: form-data; name="file"'),
    ],
    ids=["preamble", "heads", "fields", "empty photographs"],
)
async def test_a_form_without_end_is_cut_off(served, flood):
    """Whatever it is made of, it passes neither the bytes nor the parts that are read."""
    raw = request(FORM, b"", Content_Length="", Transfer_Encoding="chunked")
    sent = raw + 40 * chunked(flood * (65536 // len(flood) + 1))
    either = (413, "photograph-too-large"), (413, "too-many-parts"), (400, "malformed-request")
    await is_refused(served, *either, sent=sent)


@pytest.mark.parametrize("body", [b"", form(part(b""))])
async def test_nothing_is_no_photograph(served, body):
    """Zero bytes, raw or as a part."""
    raw = request(FORM if body else "image/jpeg", body)
    assert "empty" in await is_refused(served, (400, "missing-photograph"), sent=raw)


@pytest.mark.parametrize(
    "query",
    [
        "alpha=nan", "alpha=NaN", "alpha=inf", "alpha=-0.1", "alpha=1e999", "alpha=1_0",
        "alpha=%20.5", "alpha=%D9%A1", "alpha=", "alpha=%00", "alpha=%FF", "%FF=1", "=", "a",
        "heatmap=%F0%9F%94%B4", "explain=%ED%A0%80", "heatmap=" + 4000 * "x", "alpha=.5&alpha=.5",
        "&".join(f"x{n}=1" for n in range(900)),
    ],
    ids=lambda query: query[:30],
)  # fmt: skip
async def test_odd_queries_are_refused(served, jpeg, query):
    """Numbers that are none, bytes that are no text, names that nobody knows."""
    raw = request("image/jpeg", jpeg, f"/v1/classify?{query}")
    await is_refused(served, (400, "invalid-option"), sent=raw)
