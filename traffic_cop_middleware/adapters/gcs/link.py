"""What a thread asks Cloud Storage by: Google's client over one connection, errors understood, failures tried again.

Every request ends by its call's deadline. What failed for now (429, 5xx, a connection that broke) is tried again until
then, which does no harm: a writing request says what generation it is for, so one whose reply was lost is refused the
second time (412, 404), and that is an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError
from google.api_core.retry import Retry
from google.auth import default as default_credentials
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Blob, Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from requests import RequestException, Response, Timeout
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as ReadingTimeout

from traffic_cop_middleware.adapters.causes import cause_of
from traffic_cop_middleware.adapters.threads import Call, one_by_one
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable

Answer = TypeVar("Answer")

LEAST_TIMEOUT = 0.01
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Seconds before a request is tried again: twice as long each time, with jitter."""
REMEMBERED = 10.0
"""Seconds until credentials are looked for again, where there were none."""
FOR_NOW = (408, 429, 500, 502, 503, 504)
"""Statuses that say: not now."""
TOO_MANY = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"})
"""Reasons of a 403 that say the same."""
NO_BUCKET = "bucket does not exist"
"""What the server says of a bucket; of an object that is missing it says the name."""
LOG_IN = (
    "Run `gcloud auth application-default login`, name a key file in GOOGLE_APPLICATION_CREDENTIALS, or give the "
    "machine a service account"
)
RAISED = (
    *(GoogleAPICallError, RetryError, InvalidResponse, DataCorruption, GoogleAuthError),
    *(RequestException, HTTPError, OSError),
)
"""What the client raises, and what lies below it."""


class Place(NamedTuple):
    """Where the objects are. `name` is what may be printed of it, `base` what all names of objects begin with."""

    name: str
    bucket: str
    base: str
    emulator: str | None


class Requests(AuthorizedSession):
    """The client's requests, each within what is left until `ends`."""

    ends = 0.0

    def left(self) -> float:
        return max(LEAST_TIMEOUT, self.ends - time.monotonic())

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Response:  # type: ignore[override]
        session: Any = super()  # the library has no types here
        response: Response = session.request(method, url, *args, **kwargs | {"timeout": self.left()})
        return response


class Link:
    """What a call is given: the bucket, and the way to ask it again."""

    def __init__(self, place: Place) -> None:
        self.place = place
        authorized: Any = Requests  # the library has no types here
        if place.emulator is None:
            credentials: Any = default_credentials(scopes=Client.SCOPE)[0]
            self._requests = authorized(credentials)
            self._requests.configure_mtls_channel()
        else:
            credentials = cast("Any", AnonymousCredentials)()
            self._requests = authorized(credentials, refresh_status_codes=())
            self._requests.trust_env = False  # what is on this host is not asked through a proxy
        self.client = Client(
            project=None,
            credentials=credentials,
            _http=self._requests,
            client_options=None if place.emulator is None else {"api_endpoint": place.emulator},
        )
        # The client would ask what bucket this is, for traces, in a thread of its own over this very connection.
        vars(self.client)["_bucket_metadata_cache"] = None
        self.bucket = self.client.bucket(place.bucket)
        self.call: Call[Link, Any] | None = None

    def begin(self, call: Call[Link, Any]) -> None:
        self.call = call
        self._requests.ends = call.ends

    def over(self) -> bool:
        return self.call is None or not self.call.wanted

    def retry(self, lost: Callable[[Exception], None] | None = None) -> Retry:
        """How a request is tried again; `lost` hears of each failure that is."""
        return Retry(
            predicate=lambda exc: not self.over() and isinstance(exc, RAISED) and self._for_now(exc),
            initial=FIRST_WAIT,
            maximum=LONGEST_WAIT,
            timeout=self._requests.left(),
            on_error=lost,
        )

    def _for_now(self, exc: Exception) -> bool:
        return isinstance(self.understood(exc), StoreUnavailable)

    def blob(self, path: str, *, chunk_size: int | None = None) -> Blob:
        return self.bucket.blob(self.place.base + path, chunk_size=chunk_size)

    def unless_missing(self, ask: Callable[[], Answer]) -> Answer | None:
        """What a request gives; `None` where there is no such object. A bucket that is missing is an error."""
        try:
            return ask()
        except NotFound as exc:
            if no_bucket(exc):
                raise
            return None

    def check(self) -> None:
        """See that the bucket is there and may be asked."""
        fields = "items(name),nextPageToken"
        listing = self.client.list_blobs(
            self.bucket, prefix=self.place.base, page_size=1, fields=fields, retry=self.retry()
        )
        try:
            next(listing.pages, None)
        except NotFound as exc:
            raise self._no_bucket(str(exc)) from exc

    def understood(self, exc: BaseException) -> Exception:
        """What a caller hears of an error."""
        name = self.place.name
        if isinstance(exc, RetryError) and exc.__cause__ is not None:
            return self.understood(exc.__cause__)
        if isinstance(exc, InvalidResponse):
            return self._refused(exc.response.status_code, str(exc.response.text or exc), ())
        if isinstance(exc, GoogleAPICallError):
            reasons = [str(error.get("reason")) for error in exc.errors if isinstance(error, dict)]
            return self._refused(int(exc.code or 500), exc.message or str(exc), reasons)
        if isinstance(exc, DataCorruption):
            return StoreError(f"{name}: the bytes that came are not those that it holds (CRC32C). Read them again")
        if isinstance(exc, TransportError):
            return StoreUnavailable(f"{name}: no credentials can be had: {cause_of(exc)}")
        if isinstance(exc, GoogleAuthError):
            return ConfigurationError(f"files: {name}: no credentials that can be used ({exc}). {LOG_IN}")
        if isinstance(exc, Timeout | ReadingTimeout):
            return StoreTimeout("no answer within the deadline")
        return StoreUnavailable(f"{name} can't be reached: {cause_of(exc)}")

    def _refused(self, status: int, says: str, reasons: Sequence[str]) -> Exception:
        name = self.place.name
        says = says.strip()[:500]
        if status in FOR_NOW or (status == 403 and TOO_MANY.intersection(reasons)):
            return StoreUnavailable(f"{name} is not ready ({status}): {says}")
        if status == 401:
            return ConfigurationError(f"files: {name} does not accept the credentials: {says}. {LOG_IN}")
        if status == 403:
            return ConfigurationError(
                f"files: {name} does not let this account do that: {says}. Grant it roles/storage.objectUser on the "
                "bucket (create, get, list and delete objects)"
            )
        if NO_BUCKET in says:
            return self._no_bucket(says)
        return StoreError(f"{name} answered {status}: {says}")

    def _no_bucket(self, says: str) -> ConfigurationError:
        bucket = self.place.bucket
        return ConfigurationError(
            f"files: there is no bucket {bucket!r} ({says}). Make it "
            f"(`gcloud storage buckets create gs://{bucket}`), or name another one"
        )

    def close(self) -> None:
        self.client.close()


def no_bucket(exc: Exception) -> bool:
    """Whether it is the bucket that was not found."""
    return NO_BUCKET in str(exc)


class SetUp:
    """What all threads know: whether the bucket was seen, and what came of the last search for credentials."""

    done = False
    refused: tuple[float, ConfigurationError] | None = None
    """Until when it is not tried again (seconds, `time.monotonic`), and why."""


class GcsWorker:
    """A worker of `Threads`. The credentials are looked for when it is first asked something."""

    def __init__(self, place: Place, set_up: SetUp) -> None:
        self._place = place
        self._set_up = set_up
        self._link: Link | None = None

    def run(self, calls: Sequence[Call[Link, Any]]) -> None:
        one_by_one(calls, self._asked)

    def _linked(self) -> Link:
        """The link; where there are no credentials that takes seconds, so it is not looked for them at each call."""
        refused = self._set_up.refused
        if refused is not None and time.monotonic() < refused[0]:
            raise ConfigurationError(str(refused[1])) from refused[1]
        try:
            return Link(self._place)
        except GoogleAuthError as exc:
            error = ConfigurationError(f"files: {self._place.name}: no credentials ({exc}). {LOG_IN}")
            self._set_up.refused = time.monotonic() + REMEMBERED, error
            raise error from exc

    def _asked(self, call: Call[Link, Any]) -> Any:
        link = self._link = self._link or self._linked()
        link.begin(call)
        try:
            if not self._set_up.done:
                link.check()
                self._set_up.done = True
            return call.work(link)
        except RAISED as exc:
            raise link.understood(exc) from exc

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
