"""Reading the photographs out of a zip, entry by entry, and no more of it than is allowed.

What an entry is called is shown and never used: nothing is written anywhere. Everything here
blocks, and belongs into a worker thread.
"""

from __future__ import annotations

import io
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from gateway.errors import (
    PhotographTooLarge,
    SeriesTooLarge,
    UnreadablePhotograph,
    UnreadableZip,
    UnsupportedMedia,
)

MAGIC = (b"PK\3\4", b"PK\5\6")
"""How a zip begins: with its first entry, or without any."""

_OF_A_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})
_ENCRYPTED = 0x1  # of an entry's flags; APPNOTE.TXT 4.4.4
_PIECE = 64 * 1024
# zipfile reads the whole directory at once and makes an object of each 46 bytes or more
_DIRECTORY = 1024 * 1024
_DIRECTORY_ENTRY = 1024


class Zipped:
    """The photographs of a zip: ``entries`` lists them, in the order of its directory.

    Inflated they have at most ``inflated`` bytes.
    """

    def __init__(self, file: IO[bytes], most_photographs: int, most_bytes: int, most: int) -> None:
        """Read the directory; of all entries, of their bytes inflated, and of one of them.

        Raises:
            UnreadableZip: damaged, or no zip.
            SeriesTooLarge: more photographs, or more bytes by its directory, than these.
        """
        self._most = most
        capped = _Capped(file, _DIRECTORY + _DIRECTORY_ENTRY * most_photographs)
        self._zip = _opened(capped)
        self.entries = [entry for entry in self._zip.infolist() if _is_meant(entry)]
        if len(self.entries) > most_photographs:
            raise SeriesTooLarge(
                f"The zip holds {len(self.entries):,} files; at most {most_photographs:,} are "
                "counted at once. Send fewer."
            )
        self.inflated = sum(min(entry.file_size, most) for entry in self.entries)
        if self.inflated > most_bytes:
            raise SeriesTooLarge(
                f"The zip's files have {self.inflated:,} bytes; the series has room for "
                f"{most_bytes:,}. Send fewer at once."
            )

    def read(self, entry: ZipInfo) -> bytes:
        """Inflate one entry.

        Raises:
            PhotographTooLarge, UnreadablePhotograph, UnsupportedMedia: this one cannot be read.
        """
        self._check(entry)
        try:
            data = self._inflate(entry)
        except Exception as error:  # hostile bytes make it raise anything
            raise UnreadablePhotograph(
                f"This file is damaged inside the zip ({type(error).__name__}). Pack it again."
            ) from error
        if len(data) > self._most:
            raise self._too_large()
        if data.startswith(MAGIC):
            raise UnsupportedMedia("A zip inside a zip is not opened: pack all into one.")
        return data

    def _check(self, entry: ZipInfo) -> None:
        if entry.flag_bits & _ENCRYPTED:
            raise UnreadablePhotograph("This file is encrypted. Pack it without a password.")
        if entry.volume:
            raise UnreadablePhotograph("This file lies on another disk. Pack all into one zip.")
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise UnreadablePhotograph(
                "This file is packed in a way that is not read. Pack it with Deflate, or stored."
            )
        if entry.file_size > self._most:
            raise self._too_large()

    def _inflate(self, entry: ZipInfo) -> bytes:
        """Inflate, and stop past the most bytes whatever the directory says."""
        data = bytearray()
        with self._zip.open(entry) as packed:
            while len(data) <= self._most and (piece := packed.read(_PIECE)):
                data += piece
        return bytes(data)

    def _too_large(self) -> PhotographTooLarge:
        return PhotographTooLarge(
            f"A photograph may have at most {self._most:,} bytes. Scale it down or compress it."
        )


class _Capped(io.BufferedIOBase):
    """A file of which not more than so much is read at a time: a directory is, as a whole."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._most:
            raise SeriesTooLarge("The zip's directory is too long: send fewer files at once.")
        return self._file.read(self._most if size is None or size < 0 else size)


def _opened(file: _Capped) -> ZipFile:
    try:
        return ZipFile(file)
    except SeriesTooLarge:
        raise
    except Exception as error:  # hostile bytes make it raise anything
        raise UnreadableZip(
            f"This zip cannot be read ({type(error).__name__}). Pack its photographs again, into "
            "one zip without parts, with names in UTF-8."
        ) from error


def _is_meant(entry: ZipInfo) -> bool:
    """Tell whether somebody put it there: folders and what systems add of themselves are not."""
    *folders, name = entry.filename.split("/")
    if not name or "__MACOSX" in folders:
        return False
    return not name.startswith(".") and name.lower() not in _OF_A_SYSTEM
