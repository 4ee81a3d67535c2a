"""TLS on both sides: certificates from files, for HTTP and for the model server's channel."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc

from gateway.errors import SettingsError

_HTTP = "HEMAVISION_TLS_"
_MODEL = "HEMAVISION_MODEL_TLS_"


def server_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What HTTPS is served with; None where no certificate is given: then it is HTTP.

    Args:
        certificate: PEM, with the chain up to the authority.
        key: PEM; None where it is in the certificate's file.

    Raises:
        SettingsError: a file is not what it should be.
    """
    if certificate is None:
        if key is not None:
            raise SettingsError(f"{_HTTP}KEY needs {_HTTP}CERTIFICATE beside it.")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, certificate, key, _HTTP)
    return context


def channel_credentials(
    authority: Path | None, certificate: Path | None, key: Path | None
) -> grpc.ChannelCredentials | None:
    """What the model server is spoken to with; None where no authority is given: in the clear.

    Args:
        authority: PEM of the authority that signed the model server's certificate.
        certificate: PEM of this gateway's own, where the model server asks for one.
        key: PEM; None where it is in the certificate's file.

    Raises:
        SettingsError: a file is not what it should be.
    """
    if key is not None and certificate is None:
        raise SettingsError(f"{_MODEL}KEY needs {_MODEL}CERTIFICATE beside it.")
    if authority is None:
        if certificate is not None:
            raise SettingsError(f"{_MODEL}CERTIFICATE needs {_MODEL}CA beside it.")
        return None
    _check(authority, certificate, key)
    if certificate is None:
        return grpc.ssl_channel_credentials(authority.read_bytes())
    private = (key or certificate).read_bytes()
    return grpc.ssl_channel_credentials(authority.read_bytes(), private, certificate.read_bytes())


def certificate_ends(http: Path | None, model: Path | None) -> Iterator[tuple[str, float]]:
    """Tell to whom each certificate is shown, and when it, or its chain, ends.

    Args:
        http: PEM that ``server_context`` took.
        model: PEM that ``channel_credentials`` took.

    Yields:
        ``http`` or ``model``, and seconds since 1970.

    Raises:
        SettingsError: a certificate is written in a way that OpenSSL alone understands.
    """
    for peer, prefix, certificate in (("http", _HTTP, http), ("model", _MODEL, model)):
        if certificate is not None:
            yield peer, _first_end(certificate, prefix)


def _first_end(chain: Path, prefix: str) -> float:
    from cryptography import x509  # slow to import, and only needed where there is TLS

    pem = chain.read_bytes()
    if b"-----BEGIN TRUSTED CERTIFICATE-----" in pem:  # passed over in silence beside plain ones
        raise SettingsError(
            f"{prefix}CERTIFICATE: {chain} holds a TRUSTED CERTIFICATE, OpenSSL's own form, whose "
            "end cannot be read: `openssl x509` writes it plainly, but only the first of a file; "
            "put the rest of the chain after it."
        )
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SettingsError(
            f"{prefix}CERTIFICATE: when {chain} ends cannot be read ({error})."
        ) from error
    return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)


def _check(authority: Path, certificate: Path | None, key: Path | None) -> None:
    """Read the files as Python does: gRPC would tell of a bad one later, in a log of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise SettingsError(
            f"{_MODEL}CA: {authority} holds no certificates ({_reason(error)})."
        ) from error
    if certificate is not None:
        _load_pair(context, certificate, key, _MODEL)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None, prefix: str) -> None:
    def refuse_password() -> str:  # without it, OpenSSL would ask on the terminal
        raise SettingsError(f"{prefix}KEY: {key or certificate} is locked with a password.")

    try:
        context.load_cert_chain(certificate, key, refuse_password)
    except OSError as error:
        raise SettingsError(
            f"{prefix}CERTIFICATE and {prefix}KEY: {certificate} and {key or 'the key in it'} are "
            f"no certificate with its key ({_reason(error)})."
        ) from error


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror)
