"""Objects in Google Cloud Storage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from traffic_cop_middleware.adapters.gcs.link import Place
from traffic_cop_middleware.adapters.gcs.objects import GcsObjects
from traffic_cop_middleware.adapters.options import Bounds, numbers
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.contracts.objects import check_path
from traffic_cop_middleware.errors import ConfigurationError

BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
OPTIONS = {
    "deadline": Bounds(0.01, 300, None, "seconds per call, in place of the stack's deadline"),
    "threads": Bounds(1, 64, 4, "connections, each in a thread"),
}
FORMS = "gs://bucket or gs://bucket/prefix"


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> GcsObjects:
    """`gs://bucket` or `gs://bucket/prefix`: objects below `prefix/namespace/`.

    `?deadline=30` is the seconds of a call, `?threads=4` how many calls are made at once. The credentials are those
    that Google's libraries find (Application Default Credentials); they need `roles/storage.objectUser` on the bucket.
    Where STORAGE_EMULATOR_HOST is set, that is asked, without credentials.
    """
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
    if parts.fragment or not BUCKET.fullmatch(bucket):
        raise ConfigurationError(f"files={url!r} names no bucket of Cloud Storage. Write {FORMS}, without a '#'")
    name = f"gs://{bucket}/{prefix}" if prefix else f"gs://{bucket}"
    options = numbers(parts.query, OPTIONS, name=f"files='{name}'")
    below = f"{prefix}/{namespace}" if prefix else namespace
    try:
        check_path(below)
    except ValueError as exc:
        raise ConfigurationError(f"files='{name}' can't have objects below {below!r}: {exc}") from exc
    emulator = os.environ.get("STORAGE_EMULATOR_HOST") or None
    if emulator is not None and "://" not in emulator:
        emulator = f"http://{emulator}"
    return GcsObjects(
        Place(name, bucket, f"{below}/", emulator),
        deadline=options["deadline"] or deadline,
        notify=notify,
        threads=int(options["threads"] or 1),
    )
