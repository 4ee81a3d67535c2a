"""TLS for HTTP and for the model server's channel, with an authority made for the test."""

import asyncio
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import grpc
import pytest
import trustme
from aiohttp import web

from gateway import cli, up
from gateway.app import create_app
from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.tls import certificate_ends, channel_credentials, server_context


class Files:
    """An authority, and certificates that it signed, as PEM files."""

    def __init__(self, folder) -> None:
        self._authority, self._folder = trustme.CA(), folder
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)
        self.certificate, self.key = self.issue("localhost", "127.0.0.1")

    def issue(self, *names: str):
        """A certificate for these names, with its key beside it."""
        issued = self._authority.issue_cert(*names)
        certificate = self._folder / f"{names[0]}.pem"
        key = self._folder / f"{names[0]}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def server_credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """For a server that asks for a certificate of this authority, or for none."""
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            self.ca.read_bytes() if mutual else None,
            require_client_auth=mutual,
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Files:
    """Of an authority that nobody here trusts."""
    return Files(tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def relay(model_server, files) -> Iterator:
    """A TLS server in front of the model server: it hands on each call as it came."""
    with grpc.insecure_channel(model_server) as channel:

        class Relay(grpc.GenericRpcHandler):
            def service(self, call):
                forward = channel.unary_unary(call.method)  # bytes in, bytes out
                return grpc.unary_unary_rpc_method_handler(lambda request, _: forward(request))

        servers = []

        def start(*, mutual: bool) -> str:
            from concurrent.futures import ThreadPoolExecutor

            server = grpc.server(ThreadPoolExecutor(2), handlers=[Relay()])
            port = server.add_secure_port("127.0.0.1:0", files.server_credentials(mutual=mutual))
            server.start()
            servers.append(server)
            return f"127.0.0.1:{port}"

        yield start
        for server in servers:
            server.stop(0).wait()


async def answered(aiohttp_client, jpeg, server: str, **tls) -> int:
    """Status of a photograph that is sent to a gateway with these settings."""
    client = await aiohttp_client(create_app(Settings(model_server=server, **tls)))
    reply = await client.post("/v1/classify", data=jpeg, headers={"Content-Type": "image/jpeg"})
    return reply.status


@pytest.mark.parametrize(
    "end",
    [
        datetime(2035, 2, 28, 23, 59, 58, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),  # the last with two digits of the year
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(2020, 1, 1, tzinfo=UTC),
    ],
    ids=str,
)
def test_a_certificate_tells_when_it_ends(end, tmp_path):
    """To the second, in both of the ways in which a year is written; past ends too."""
    issued = trustme.CA().issue_cert("localhost", not_before=datetime(2019, 1, 1), not_after=end)
    issued.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    assert list(certificate_ends(None, tmp_path / "own.pem")) == [("model", end.timestamp())]


def test_a_chain_ends_with_the_first_of_its_certificates(tmp_path):
    """Wherever it stands in the file, with the key beside them."""
    authority = trustme.CA()
    sooner, later = datetime(2035, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
    pems = [
        authority.issue_cert("localhost", not_after=end).private_key_and_cert_chain_pem.bytes()
        for end in (later, sooner, later)
    ]
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(pems))
    assert list(certificate_ends(chain, None)) == [("http", sooner.timestamp())]


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "with its chain"])
def test_a_certificate_in_openssls_own_form_is_refused(files, tmp_path, chained):
    """Beside plain ones it would be passed over, and the chain's end told wrongly."""
    trusted = tmp_path / "trusted.pem"
    plain = files.certificate.read_text()
    own = plain.replace(" CERTIFICATE-", " TRUSTED CERTIFICATE-")
    trusted.write_text(own + plain * chained)
    with pytest.raises(SettingsError, match=r"_TLS_CERTIFICATE: .* whose end cannot be read"):
        list(certificate_ends(trusted, None))
    with pytest.raises(SettingsError, match=r"MODEL_TLS_CERTIFICATE: .* whose end cannot be read"):
        list(certificate_ends(None, trusted))


def test_a_certificate_whose_end_cannot_be_read_is_told(files, tmp_path):
    """By its file."""
    broken = tmp_path / "broken.pem"
    broken.write_text(files.certificate.read_text().replace("MII", "AAA", 1))
    with pytest.raises(SettingsError, match=r"TLS_CERTIFICATE: when .*broken.pem ends cannot"):
        list(certificate_ends(broken, None))


async def test_when_the_gateways_own_certificates_end_is_scraped(aiohttp_client, files):
    """Of those that it has, by whom they are shown to; of none, nothing."""
    own = {"tls_certificate": files.certificate, "tls_key": files.key}
    towards_model = {
        "model_tls_ca": files.ca,
        "model_tls_certificate": files.certificate,
        "model_tls_key": files.key,
    }
    [(_, end)] = certificate_ends(files.certificate, None)
    for settings, peers in (({}, set()), (own, {"http"}), (own | towards_model, {"http", "model"})):
        app = create_app(Settings(model_server="127.0.0.1:1", **settings))
        text = await (await (await aiohttp_client(app)).get("/metrics")).text()
        name = "hemavision_certificate_expiry_timestamp_seconds"
        found = dict(re.findall(rf'^{name}{{peer="(\w+)"}} (\S+)', text, re.MULTILINE))
        assert {peer: float(value) for peer, value in found.items()} == dict.fromkeys(peers, end)


async def test_the_model_server_is_spoken_to_over_tls(aiohttp_client, jpeg, relay, files):
    """With the right authority an answer comes; in the clear or with another authority, none."""
    server = relay(mutual=False)
    assert await answered(aiohttp_client, jpeg, server, model_tls_ca=files.ca) == 200
    assert await answered(aiohttp_client, jpeg, server) == 503


async def test_a_model_server_of_strangers_is_not_believed(aiohttp_client, jpeg, relay, strangers):
    """Its certificate is signed by somebody else: 503, and no photograph is sent."""
    server = relay(mutual=False)
    assert await answered(aiohttp_client, jpeg, server, model_tls_ca=strangers.ca) == 503


async def test_a_model_server_that_asks_for_a_certificate_gets_it(
    aiohttp_client, jpeg, relay, files, strangers
):
    """Mutual TLS: with our certificate an answer; without one, or with a stranger's, none."""
    server = relay(mutual=True)
    ours = {"model_tls_certificate": files.certificate, "model_tls_key": files.key}
    theirs = {"model_tls_certificate": strangers.certificate, "model_tls_key": strangers.key}
    assert await answered(aiohttp_client, jpeg, server, model_tls_ca=files.ca, **ours) == 200
    assert await answered(aiohttp_client, jpeg, server, model_tls_ca=files.ca) == 503
    assert await answered(aiohttp_client, jpeg, server, model_tls_ca=files.ca, **theirs) == 503


def test_https_is_served_strictly_and_the_console_speaks_it(
    serve, model_server, files, strangers, smear, tmp_path, capsys
):
    """HSTS, TLS 1.2 at least, no HTTP; with --cacert the console comes in, and not without."""
    settings = {"TLS_CERTIFICATE": files.certificate, "TLS_KEY": files.key}
    running = serve(MODEL_SERVER=model_server, **settings)
    url, photograph = running.url, tmp_path / "cell.png"
    smear.save(photograph)
    assert url.startswith("https://127.0.0.1:")
    assert cli.main(["check", "--url", url, "--cacert", str(files.ca)]) == 0
    for command in ("classify", "differential"):
        asked = [command, str(photograph), "--url", url, "--cacert", str(files.ca)]
        assert cli.main(asked) == 0
    assert "ormal" in capsys.readouterr().out
    trusting = ssl.create_default_context(cafile=files.ca)
    with urllib.request.urlopen(f"{url}/livez", context=trusting) as response:
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert cli.main(["check", "--url", url]) == 1
    assert cli.main(["check", "--url", url, "--cacert", str(strangers.ca)]) == 1
    assert cli.main(["check", "--url", url.replace("https", "http")]) == 1
    assert "certificate verify failed" in capsys.readouterr().err
    with pytest.raises(ssl.SSLError):
        _old_handshake(url)
    assert "Traceback" not in running.printed()


def _old_handshake(url: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as plain:
        context.wrap_socket(plain)


def test_a_health_check_beside_the_gateway_needs_no_more_than_its_settings(
    serve, files, monkeypatch
):
    """`hemavision check` trusts the certificate that the gateway serves, for whatever name."""
    certificate, key = files.issue("gateway.hospital.example")
    running = serve(TLS_CERTIFICATE=certificate, TLS_KEY=key)
    monkeypatch.setenv("HEMAVISION_TLS_CERTIFICATE", str(certificate))
    monkeypatch.setenv("HEMAVISION_PORT", running.url.rsplit(":", 1)[1])
    assert cli.main(["check", "--live"]) == 0


async def test_the_last_connections_before_a_stop_speak_tls_as_well(files):
    """Those that wait while the gateway stops: one in TLS is served, one in the clear is not."""
    app = create_app(Settings())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        plain, secure = (socket.create_connection(listening.getsockname()) for _ in range(2))
        plain.sendall(request)
        trusting = ssl.create_default_context(cafile=files.ca)
        opened = asyncio.create_task(
            asyncio.open_connection(sock=secure, ssl=trusting, server_hostname="localhost")
        )
        tls = server_context(files.certificate, files.key)
        await up._make(await up._accept_the_last(listening), runner, tls)
    reader, writer = await opened
    writer.write(request)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    with plain:
        assert b"HTTP" not in await asyncio.to_thread(_rest, plain)
    await runner.cleanup()


def _rest(connection: socket.socket) -> bytes:
    connection.settimeout(20)
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def test_an_authority_that_is_none_is_told(files, capsys):
    """By name."""
    url = ["--url", "https://127.0.0.1:1"]
    assert cli.main(["check", *url, "--cacert", str(files.key)]) == 1
    assert f"{files.key} holds no certificates" in capsys.readouterr().err


def test_one_file_may_hold_certificate_and_key(files, tmp_path):
    """As many tools write it."""
    both = tmp_path / "both.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    assert server_context(both, None)
    assert channel_credentials(files.ca, both, None)


def test_without_settings_there_is_no_tls():
    """As on a laptop."""
    assert server_context(None, None) is None
    assert channel_credentials(None, None, None) is None


def test_bad_files_are_told_at_the_start(files, strangers, tmp_path):
    """Each with the setting's name, and never a question for a password on the terminal."""
    locked = tmp_path / "locked.key"
    _lock(strangers.key, locked)
    ca, certificate, key, other = files.ca, files.certificate, files.key, strangers.key
    for name, refuse in {
        "TLS_KEY needs HEMAVISION_TLS_CERTIFICATE": lambda: server_context(None, key),
        "TLS_CERTIFICATE and HEMAVISION_TLS_KEY": lambda: server_context(certificate, other),
        "the key in it": lambda: server_context(certificate, None),
        "TLS_KEY: .* password": lambda: server_context(strangers.certificate, locked),
        "MODEL_TLS_KEY needs": lambda: channel_credentials(ca, None, key),
        "MODEL_TLS_CERTIFICATE needs": lambda: channel_credentials(None, certificate, key),
        "MODEL_TLS_CA: .* holds no certificates": lambda: channel_credentials(key, None, None),
        "MODEL_TLS_CERTIFICATE and": lambda: channel_credentials(ca, certificate, other),
    }.items():
        with pytest.raises(SettingsError, match=name):
            refuse()


def _lock(key, locked) -> None:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"password")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked.write_bytes(loaded.private_bytes(encoding, form, encryption))
