"""Who may ask: the keys file, the check of a key, and how often each may be used.

A key is 256 random bits, so its SHA-256 is all that is stored: nobody can guess a key from its
hash. (A slow hash such as scrypt protects what people choose; here it would only cost time, on
every request.)
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import KeyRequired, RateExceeded, SettingsError

_LOG = logging.getLogger(__name__)

_KEY_BYTES = 32
_NAME = re.compile(
    r"[A-Za-z0-9_-]{1,40}"
)  # what TOML takes without quotes, and a log line can hold
_HASH = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"\(at line (\d+), column \d+\)$")  # how tomllib's messages end
_LOOK_EVERY = 2.0


@dataclass(frozen=True)
class Key:
    """One entry of the keys file; ``per_minute`` is None where the key has no limit."""

    name: str
    sha256: bytes
    per_minute: float | None = None


@dataclass
class Bucket:
    """A token bucket: it holds one minute's requests, is full at first, and fills steadily.

    Pure: the time, in seconds, is an argument that never goes back.
    """

    per_minute: float
    _tokens: float = field(init=False)
    _at: float | None = None

    def __post_init__(self) -> None:
        self._tokens = self._capacity

    def wait(self, now: float) -> float:
        """Take one request's token and return 0, or the seconds until there is one."""
        passed = 0.0 if self._at is None else now - self._at
        self._tokens = min(self._capacity, self._tokens + passed * self.per_minute / 60)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * 60 / self.per_minute

    @property
    def _capacity(self) -> float:
        return max(1.0, self.per_minute)


class Keys:
    """The keys of a file, which is read again when it has changed."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` counts seconds.

        Raises:
            SettingsError: the file cannot be read, makes no sense, or holds no key.
        """
        self._path, self._clock = path, clock
        self._seen, self._looked = _state(path), clock()
        self._keys = read_keys(path)
        self._buckets: dict[Key, Bucket] = {}

    def find(self, key: str | None) -> Key:
        """Return the entry of a key.

        Raises:
            KeyRequired: no key, or none that the file knows.
        """
        self._refresh()
        entry = self._find(key or "")
        if entry is None:
            raise KeyRequired(
                "This needs a key that this service knows, as `Authorization: Bearer KEY` or "
                "`X-API-Key: KEY`. Its operator has one for you."
            )
        return entry

    def _find(self, key: str) -> Key | None:
        """Compare with every entry, each in constant time: how long it takes tells nothing."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = [entry for entry in self._keys if hmac.compare_digest(entry.sha256, given)]
        return found[0] if found else None

    def spend(self, key: Key) -> None:
        """Use a key once.

        Raises:
            RateExceeded: it was used too often.
        """
        if key.per_minute is None:
            return
        seconds = self._buckets.setdefault(key, Bucket(key.per_minute)).wait(self._clock())
        if seconds > 0:
            raise RateExceeded(
                f"The key `{key.name}` may be used {key.per_minute:g} times a minute. "
                "Try again when Retry-After says.",
                retry_after=seconds,
            )

    def _refresh(self) -> None:
        """Look at the file now and then: a revoked key stops working without a restart."""
        if self._clock() - self._looked < _LOOK_EVERY:
            return
        self._looked, state = self._clock(), _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = read_keys(self._path)
        except SettingsError as error:
            _LOG.error("%s The keys that were read before stay.", error)
            return
        self._buckets = {key: self._buckets[key] for key in self._keys if key in self._buckets}
        _LOG.info("%s: %d %s", self._path, len(self._keys), "keys" if self._keys[1:] else "key")


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a keys file: TOML with one table a key, one at least.

    Raises:
        SettingsError: it cannot be read, it holds no key, or an entry makes no sense; the message
            never quotes what may be a key.
    """
    where = f"The keys file {path}"
    try:
        # a last line without an end would be told as the file's end
        entries = tomllib.loads(path.read_text("utf-8") + "\n")
    except OSError as error:
        raise SettingsError(f"{where} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise SettingsError(f"{where} is no TOML: {_fault(error)}.") from None
    if not entries:
        raise SettingsError(f"{where} holds no key: make one with `hemavision key NAME`.")
    return tuple(_key(where, name, entry) for name, entry in entries.items())


def _fault(error: ValueError) -> str:
    """Tell what is wrong and where, without the parser's own words: they may quote the line."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    place = _PLACE.search(str(error))
    where = f"line {place[1]}" if place else "its end"
    if str(error).startswith(("Cannot declare", "Cannot overwrite")):
        return f"{where} gives a name that was given before, and each can stand there once"
    return f"{where} cannot be read"


def make_key(name: str, per_minute: int | None = None) -> tuple[str, str]:
    """Make a key; return it and the entry that lets the keys file know it.

    Raises:
        SettingsError: the name or the rate makes no sense.
    """
    key = "hv_" + secrets.token_urlsafe(_KEY_BYTES)
    digest = hashlib.sha256(key.encode()).hexdigest()
    limit = {} if per_minute is None else {"per_minute": per_minute}
    _key("The new key", name, {"sha256": digest, **limit})
    lines = [f"[{name}]", f'sha256 = "{digest}"', *(f"{word} = {n}" for word, n in limit.items())]
    return key, "\n".join(lines) + "\n"


def _key(where: str, name: str, entry: object) -> Key:
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{where} has a name that is not 1 to 40 of A-Z a-z 0-9 _ and -.")
    if not isinstance(entry, dict) or not {"sha256"} <= set(entry) <= {"sha256", "per_minute"}:
        raise SettingsError(f"{where}: [{name}] takes `sha256` and, for a limit, `per_minute`.")
    digest, rate = entry["sha256"], entry.get("per_minute")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise SettingsError(f"{where}: [{name}] has a sha256 that is not 64 of 0-9 and a-f.")
    if rate is not None and not (type(rate) in (int, float) and 0 < rate < float("inf")):
        raise SettingsError(f"{where}: [{name}] has a per_minute that is no number above 0.")
    return Key(name, bytes.fromhex(digest), rate)


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes with the file's content; of the file that a link leads to, as secrets are."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
