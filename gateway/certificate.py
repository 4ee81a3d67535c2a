"""When a certificate ends, from its own bytes: the standard library tells it of a peer's alone.

A certificate is DER (ITU-T X.690): elements of a tag, a length and a content, nested. RFC 5280,
4.1 says which is which.
"""

from __future__ import annotations

import base64
import calendar
import re
import time
from collections.abc import Iterator

_PEM = re.compile(r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]+)-----END ")
_VERSION, _UTC_TIME = 0xA0, 0x17
_VALIDITY = 3  # after serial number, signature algorithm and issuer


def first_end(chain: str) -> float:
    """Return when the first of a chain's certificates ends, in seconds since 1970.

    Args:
        chain: PEM, as OpenSSL took it.
    """
    return min(_end(base64.b64decode(block)) for block in _PEM.findall(chain))


def _end(der: bytes) -> float:
    (_, certificate), *_ = _elements(der)
    (_, signed), *_ = _elements(certificate)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _, (tag, end) = _elements(fields[_VALIDITY])
    text = end.decode()
    if tag == _UTC_TIME:  # two digits of the year
        text = ("19" if text >= "50" else "20") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element."""
    at = 0
    while at < len(content):
        tag, length, at = content[at], content[at + 1], at + 2
        if length & 0x80:  # the length's own length
            octets = length & 0x7F
            length, at = int.from_bytes(content[at : at + octets]), at + octets
        yield tag, content[at : at + length]
        at += length
