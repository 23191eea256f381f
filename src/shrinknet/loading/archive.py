"""Zip archives from strangers: read by one reader, and bounded before anything is unpacked."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shrinknet.core.errors import first_line

KNOWN_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1

ALWAYS_UNPACKED = 2**30
"""Bytes that an archive may unpack to, however small it is."""

MOST_TIMES_ITS_LENGTH = 100
"""A larger archive may unpack to so many times its length. Measured data compress by 2 to 20, a bomb by 1,000."""


class UnreadableArchiveError(Exception):
    """An archive is damaged, or says things that no honest writer says; the message says which."""


class Archive:
    """The members of an archive by their names, as the one reader that looks through them finds them."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._file = file
        self.sizes = {info.filename: info.file_size for info in _checked(file.infolist())}
        allowed = max(ALWAYS_UNPACKED, MOST_TIMES_ITS_LENGTH * path.stat().st_size)
        allowed = min(allowed, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        if (claimed := sum(self.sizes.values())) > allowed:
            raise UnreadableArchiveError(
                f"which would unpack to {claimed:,} bytes, more than the {allowed:,} allowed here"
            )

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, and unpack no more of them than it says it has."""
        with self.open(name) as file:
            content = file.read(self.sizes[name])
        if len(content) != self.sizes[name]:
            raise UnreadableArchiveError(f"which has a member {name!r} of another size than it says")
        return content

    def open(self, name: str) -> zipfile.ZipExtFile:
        """Return a member as a file that is read from its beginning."""
        return self._file.open(name)  # type: ignore[return-value]


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive; whatever goes wrong while it is read is one error.

    Raises:
        UnreadableArchiveError: it is damaged, encrypted, compressed in an unknown way, has two members of one name or
            a name that no file has, or would unpack to far more than its length.
    """
    try:
        with zipfile.ZipFile(path) as file:
            yield Archive(path, file)
    except UnreadableArchiveError:
        raise
    except Exception as error:  # a damaged archive shows itself in many types
        raise UnreadableArchiveError(f"which cannot be read ({type(error).__name__}: {first_line(error)})") from error


def _checked(infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    names = set[str]()
    for info in infos:
        name = info.filename
        if name != info.orig_filename or not name.isprintable() or "\\" in name or name.startswith("/") or ".." in name:
            raise UnreadableArchiveError(f"which has a member of the name {info.orig_filename!r}")
        if name in names:
            raise UnreadableArchiveError(f"which has more than one member of the name {name!r}")
        if info.flag_bits & ENCRYPTED:
            raise UnreadableArchiveError(f"which has an encrypted member {name!r}")
        if info.compress_type not in KNOWN_COMPRESSION:
            raise UnreadableArchiveError(f"which has a member {name!r} that is compressed in an unknown way")
        names.add(name)
    return infos
