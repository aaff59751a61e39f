"""`gs://bucket/prefix`: objects in Google Cloud Storage, by Google's own client."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import google_crc32c
from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed
from google.cloud.storage import Blob
from requests import RequestException

from traffic_cop_middleware.adapters.gcs.link import RAISED, GcsWorker, Link, Place, SetUp, no_bucket
from traffic_cop_middleware.adapters.threads import OnThreads, Threads
from traffic_cop_middleware.contracts import Event, ObjectPage, StoredObject
from traffic_cop_middleware.contracts.objects import (
    MOST_OBJECT,
    MOST_PATH,
    check_about,
    check_content,
    check_path,
    is_path,
)
from traffic_cop_middleware.errors import StoreError, StoreTimeout

CHUNK = 8 * 1024 * 1024
"""Bytes that one request sends at most (a larger object goes up in several), and what is sent anew when one is lost."""
UPLOADS = 3
"""Times that an upload of several requests is begun, where the server has forgotten it or kept a part of one."""
FORGOTTEN = (308, 404, 410)
"""Statuses of such an upload."""
MOST_LISTED = 1000
FIELDS = "items(name,generation,size,timeCreated,metadata),nextPageToken"
SHA256, ABOUT = "sha256", "about-"
"""Keys of an object's custom metadata: what the writer said of the content, and how each key of `about` begins."""
PLAIN = "".join(map(chr, range(32, 127))).replace("%", "")
"""What stands in metadata as it is; the rest is written as %XX, since metadata are also header fields."""


class GcsObjects(OnThreads[Link]):
    """`ObjectStore` in a bucket, over up to `threads` connections. A generation is the bucket's own.

    The bucket may hold other objects beside and below the prefix: those whose names are no paths are not listed. Of an
    upload that died nothing is left that can be seen; Cloud Storage forgets it within a week.
    """

    def __init__(self, place: Place, *, deadline: float, notify: Callable[[Event], None], threads: int = 4) -> None:
        self.name = place.name
        self._base = place.base
        set_up = SetUp()
        super().__init__(
            Threads(lambda: GcsWorker(place, set_up), name=place.name, count=threads, deadline=deadline, notify=notify)
        )

    def _check(self, path: str) -> None:
        check_path(path)
        if len(self._base) + len(path) > MOST_PATH:
            raise ValueError(
                f"path {path[:80]!r}: with {self._base!r} before it it has {len(self._base) + len(path)} bytes, and "
                f"Cloud Storage takes {MOST_PATH}"
            )

    async def create(
        self, path: str, content: bytes, *, sha256: str, about: Mapping[str, str] | None = None
    ) -> StoredObject | None:
        self._check(path)
        check_content(path, content)
        check_about(path, about or {})
        metadata = {ABOUT + key: quote(value, safe=PLAIN) for key, value in (about or {}).items()} | {SHA256: sha256}
        return await self._threads.ask(lambda link: put(link, path, content, metadata), writes=True)

    async def read(self, path: str, *, most: int = MOST_OBJECT) -> bytes | None:
        self._check(path)
        return await self._threads.ask(lambda link: link.unless_missing(lambda: content_of(link, path, most)))

    async def stat(self, path: str) -> StoredObject | None:
        self._check(path)
        return await self._threads.ask(lambda link: link.unless_missing(lambda: known_of(link, path)))

    async def delete(self, path: str, *, generation: int) -> bool:
        """As `ObjectStore.delete`. Where a reply was lost and the object is gone by the next try, it was there."""
        self._check(path)
        return await self._threads.ask(lambda link: remove(link, path, generation), writes=True)

    async def list(self, prefix: str = "", *, after: str | None = None, most: int = 500) -> ObjectPage:
        return await self._threads.ask(lambda link: page_of(link, prefix, after, min(max(1, most), MOST_LISTED)))

    async def sweep(self, *, older_than: float) -> int:
        """0: Cloud Storage forgets uploads that were not ended by itself, within a week."""
        return 0


# What is done in a thread


def checksum(content: bytes) -> str:
    """CRC32C as Cloud Storage writes it."""
    return base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


def put(link: Link, path: str, content: bytes, metadata: Mapping[str, str]) -> StoredObject | None:
    """Keep an object where nothing is. The server compares the checksum before there is an object."""
    whole = len(content) <= CHUNK
    crc32c = checksum(content)
    # Of an upload in several requests the client would remove what it finds wrong, whosoever that is.
    checked: dict[str, Any] = {"checksum": "crc32c"} if whole else {"checksum": None, "crc32c_checksum_value": crc32c}
    why: Exception | None = None
    for _ in range(UPLOADS):
        blob = link.blob(path, chunk_size=CHUNK)
        blob.metadata = dict(metadata)
        try:
            blob.upload_from_file(
                io.BytesIO(content),
                size=len(content),
                content_type="application/octet-stream",
                if_generation_match=0,
                retry=link.retry(),
                **checked,
            )
        except PreconditionFailed:
            return None
        except (GoogleAPICallError, ValueError) as exc:
            # Where a part of a request was kept (308) the client can't go on, and says so by a ValueError of its own.
            forgotten = exc.code in FORGOTTEN if isinstance(exc, GoogleAPICallError) else not isinstance(exc, RAISED)
            if whole or not forgotten or no_bucket(exc):
                raise
            why = exc
            continue
        if blob.crc32c not in {None, crc32c}:
            blob.delete(if_generation_match=blob.generation, retry=link.retry())
            raise StoreError(f"{link.place.name}: {path} was not kept as it was sent (CRC32C), and was removed again")
        return stored_of(link, blob)
    raise StoreError(f"{link.place.name}: the upload of {path} was begun {UPLOADS} times and forgotten: {why}") from why


class Sink(io.BytesIO):
    """Where a download goes: an end to one that is too large or takes too long."""

    def __init__(self, link: Link, path: str, most: int) -> None:
        super().__init__()
        self._link = link
        self._path = path
        self._most = most

    def write(self, data: object, /) -> int:
        written = super().write(data)  # type: ignore[arg-type]
        if self.tell() > self._most:
            name = self._link.place.name
            raise StoreError(f"{name}: {self._path} has more bytes than the {self._most} that were to be read at most")
        if self._link.over():
            raise StoreTimeout("no end within the deadline")
        return written


def content_of(link: Link, path: str, most: int) -> bytes:
    blob, sink = link.blob(path), Sink(link, path, most)
    blob.download_to_file(sink, raw_download=True, checksum="crc32c", retry=link.retry())
    content = sink.getvalue()
    if blob.crc32c != checksum(content):  # the client does not look at this when a download was gone on with
        raise StoreError(
            f"{link.place.name}: the bytes of {path} that came are not those that it holds (CRC32C). Read them again"
        )
    return content


def known_of(link: Link, path: str) -> StoredObject:
    blob = link.blob(path)
    blob.reload(retry=link.retry())
    return stored_of(link, blob)


def remove(link: Link, path: str, generation: int) -> bool:
    failed: list[Exception] = []
    try:
        link.blob(path).delete(if_generation_match=generation, retry=link.retry(failed.append))
    except (PreconditionFailed, NotFound) as exc:
        if no_bucket(exc):
            raise
        return any(isinstance(each, RequestException) for each in failed)  # a reply was lost
    return True


def page_of(link: Link, prefix: str, after: str | None, most: int) -> ObjectPage:
    base = link.place.base
    listing = link.client.list_blobs(
        link.bucket,
        prefix=base + prefix,
        # The first path that may come after another is that and a space: nothing less is printable.
        start_offset=None if after is None else f"{base}{after} ",
        page_size=most,
        fields=FIELDS,
        retry=link.retry(),
    )
    blobs: list[Blob] = []
    for page in listing.pages:  # one that is empty may have others after it
        blobs = list(page)
        if blobs:
            break
    stored = [stored_of(link, blob) for blob in blobs if is_path(path_of(link, blob))]
    more = listing.next_page_token is not None and blobs
    return ObjectPage(stored, path_of(link, blobs[-1]) if more else None)


def path_of(link: Link, blob: Blob) -> str:
    return str(blob.name)[len(link.place.base) :]


def stored_of(link: Link, blob: Blob) -> StoredObject:
    metadata: Mapping[str, str] = blob.metadata or {}
    about = {key[len(ABOUT) :]: unquote(value) for key, value in metadata.items() if key.startswith(ABOUT)}
    created = blob.time_created
    return StoredObject(
        path_of(link, blob),
        int(blob.generation or 0),
        int(blob.size or 0),
        created.timestamp() if created else 0.0,
        metadata.get(SHA256, ""),
        about,
    )
