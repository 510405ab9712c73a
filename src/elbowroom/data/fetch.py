"""Get the bytes of a published file: from a local mirror, the cache or the official source.

`ELBOWROOM_DATA` names a mirror (`mnist/train-images-idx3-ubyte.gz`, ...), which is looked at
first; `ELBOWROOM_CACHE` moves the cache. The checksum is that of the uncompressed content: the
bytes of a .gz differ between mirrors, the content does not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import pooch

from elbowroom.files import write_atomically

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes received, bytes in all or 0 if unknown)."""

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def report_progress(progress: Progress) -> Iterator[None]:
    """Downloads made inside this context report to `progress`; otherwise they are silent."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set.

    path:   where it lies below the mirror or the cache, `folder/name`; a `.gz` is unpacked.
    sha256: of the uncompressed content; None where it is not known.
    url:    the official source; None if there is none. From a `.zip` the member with the name
            of the file is taken.
    note:   for the error message: what the file is and how to come by it.
    md5:    of what lies at `url`, where only that is published. A `.zip` with it is kept in the
            cache for its other members.
    """

    path: str
    sha256: str | None
    url: str | None = None
    note: str = ""
    md5: str | None = None

    def read(self) -> bytes:
        """The uncompressed content, downloaded into the cache if it is nowhere yet.

        Raises `FileNotFoundError` saying what to put where, or `ValueError` for a wrong
        checksum or an archive that cannot be read.
        """
        for folder in _folders():
            place = folder / self.path
            if place.is_file():
                raw = place.read_bytes()
                if not self._zipped:
                    self._check_published(raw, str(place))
                return self._content(raw, str(place))
        if self.url is None:
            raise self._missing("it has no official source to download from")
        return self._download(self.url)

    def _content(self, raw: bytes, origin: str) -> bytes:
        try:
            content = gzip.decompress(raw) if self.path.endswith(".gz") else raw
        except (OSError, EOFError) as error:
            raise ValueError(f"{origin} is not a complete gzip file: {error}") from error
        found = hashlib.sha256(content).hexdigest()
        if self.sha256 is not None and found != self.sha256:
            raise ValueError(
                f"{origin} is not the expected file: SHA-256 of its content is {found}, "
                f"expected {self.sha256}"
            )
        return content

    @property
    def _zipped(self) -> bool:
        return self.url is not None and self.url.endswith(".zip")

    def _check_published(self, raw: bytes, origin: str) -> None:
        found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        if self.md5 is not None and found != self.md5:
            raise ValueError(
                f"{origin} is not the published file: its MD5 is {found}, expected {self.md5}"
            )

    def _download(self, url: str) -> bytes:
        place = cache_folder() / self.path
        data = self._published(url, place)
        if self._zipped:
            data = _member(data, place.name, url)
        content = self._content(data, url)
        write_atomically(place, data)
        return content

    def _published(self, url: str, place: Path) -> bytes:
        """What lies at the official source, checked as far as it can be."""
        archive = place.parent / url.rpartition("/")[2]
        kept = self._zipped and self.md5 is not None
        if kept and archive.is_file():
            return archive.read_bytes()
        progress = _progress.get()
        bar = _Bar(place.name, progress) if progress else False
        raw = io.BytesIO()
        try:
            pooch.HTTPDownloader(progressbar=bar, timeout=30)(url, raw, None)
        except OSError as error:  # every exception of requests is one
            response = getattr(error, "response", None)
            reason = type(error).__name__ if response is None else f"HTTP {response.status_code}"
            raise self._missing(f"the download failed ({reason})") from error
        data = raw.getvalue()
        self._check_published(data, url)
        if kept:
            write_atomically(archive, data)
        return data

    def _missing(self, why: str) -> FileNotFoundError:
        places = " or ".join(str(folder / self.path) for folder in _folders())
        origin = f"Download {self.url} and put" if self.url else "Put"
        member = " (unpacked)" if self.url and self.url.endswith(".zip") else ""
        note = f" ({self.note})" if self.note else ""
        return FileNotFoundError(
            f"{self.path}{note} is not here, and {why}. {origin} the file{member} at {places}; "
            "the environment variable ELBOWROOM_DATA names a folder to look in first."
        )


def cache_folder() -> Path:
    """Where downloads are kept: `ELBOWROOM_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ELBOWROOM_CACHE") or pooch.os_cache("elbowroom"))


def _folders() -> list[Path]:
    mirror = os.environ.get("ELBOWROOM_DATA")
    return [*([Path(mirror)] if mirror else []), cache_folder()]


def _member(data: bytes, name: str, url: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{url} is not a zip archive with the file {name}: {error}") from error


class _Bar:
    """What pooch takes for a progress bar, forwarding to a callback."""

    def __init__(self, name: str, report: Progress) -> None:
        self.total = 0
        self._name, self._report, self._received = name, report, 0

    def update(self, size: int) -> None:
        # pooch adds whole chunks, so the last step overshoots.
        self._received += size
        received = min(self._received, self.total) if self.total else self._received
        self._report(self._name, received, self.total)

    def reset(self) -> None:
        self._received = 0

    def close(self) -> None:
        pass
