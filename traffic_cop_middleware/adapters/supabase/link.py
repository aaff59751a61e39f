"""What a thread asks a project by: Supabase's client over one connection, errors understood.

Each request ends by its call's deadline. All that is asked may be asked again, so a call is begun anew once where the
connection broke (the reply may have been lost) or where the database undid it (serialization, deadlock).

Row-level security is told in each request for whom it is: one tenant, or all of them (migration.sql).
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from typing import Any

import httpx
from postgrest import APIError, SyncPostgrestClient
from supabase import Client
from supabase.lib.client_options import SyncClientOptions

from traffic_cop_middleware.adapters.causes import cause_of
from traffic_cop_middleware.adapters.supabase.urls import Project
from traffic_cop_middleware.adapters.threads import Call, one_by_one
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable

TENANT, SCOPE = "x-traffic-cop-tenant", "x-traffic-cop-scope"
LEAST_TIMEOUT = 0.01

REFUSED = ("PGRST300", "PGRST301", "PGRST302", "PGRST303")
UNKNOWN = ("PGRST200", "PGRST202", "PGRST204", "PGRST205", "42P01", "42P10", "42703", "42883", "22023")
TOO_SLOW = ("57014", "PGRST003")
UNDONE = ("40001", "40P01")
NOT_READY = ("08", "53", "57P", "PGRST00")
READ_ONLY = "25006"
NO_SUCH_FILE = "23503"


class Link:
    """What a call is given: questions to the database."""

    def __init__(self, project: Project) -> None:
        self.name = project.name
        self.ends = 0.0
        self._status = 0
        self._http = httpx.Client(
            verify=trusted(project),
            trust_env=False,  # a proxy of the environment, or a password in ~/.netrc, is none of ours
            follow_redirects=False,
            event_hooks={"request": [self._bound], "response": [self._saw]},
        )
        options = SyncClientOptions(
            headers={"Authorization": f"Bearer {project.token}"},
            auto_refresh_token=False,
            persist_session=False,
            postgrest_client_retry=False,  # it would sleep beyond the deadline
            httpx_client=self._http,
        )
        self._rest = Client(project.url, project.key, options).postgrest

    def _bound(self, request: httpx.Request) -> None:
        left = max(LEAST_TIMEOUT, self.ends - time.monotonic())
        request.extensions["timeout"] = httpx.Timeout(left).as_dict()

    def _saw(self, response: httpx.Response) -> None:
        self._status = response.status_code

    def of(self, tenant: str | None) -> SyncPostgrestClient:
        """Questions for one tenant, or for all of them (`None`: chores)."""
        headers = self._rest.headers
        headers.pop(TENANT, None)
        headers.pop(SCOPE, None)
        if tenant is None:
            headers[SCOPE] = "all"
        else:
            headers[TENANT] = json.dumps(tenant)  # ASCII, whatever the tenant is called
        return self._rest

    def understood(self, exc: APIError) -> Exception:
        """What a caller hears of an error that PostgREST or the gateway answered with."""
        code, name, said = exc.code or "", self.name, f"{exc.message} ({exc.code or self._status})"
        if code == "42501":
            return ConfigurationError(
                f"file_metadata: {name} does not let this key do that: {said}. Use a token of the role traffic_cop, or "
                "the key of service_role, and run the migration (python -m "
                "traffic_cop_middleware.adapters.supabase prints it). Where it has run, see whether something on the "
                f"way takes the header {TENANT} out"
            )
        if code in REFUSED or self._status in (401, 403):
            return ConfigurationError(
                f"file_metadata: {name} does not accept this key: {said}. It may have expired, or be another's. "
                "Supabase's gateway wants a key that it knows before the token: supabase+https://KEY:TOKEN@…"
            )
        if code in UNKNOWN:
            return ConfigurationError(
                f"file_metadata: {name} lacks our tables or functions: {said}. Run the migration in this project: "
                "python -m traffic_cop_middleware.adapters.supabase prints it"
            )
        if code in TOO_SLOW:
            return StoreTimeout(f"the database ended the question ({code}) within the deadline")
        if code == READ_ONLY:
            return StoreUnavailable(f"{name} takes no writes at present: {said}. See whether its disk is full")
        if code in UNDONE or code.startswith(NOT_READY) or self._status == 429 or self._status >= 500:
            return StoreUnavailable(f"{name} is not ready: {said}")
        if code == NO_SUCH_FILE:
            return StoreError(f"{name}: an edge names a file that its tenant does not have: {exc.details}")
        if self._status == 404 or 300 <= self._status < 400:
            return ConfigurationError(f"file_metadata: there is no Supabase at {name}: {said}. See the URL")
        return StoreError(f"{name}: {said}")

    def rows(self, data: Any) -> Sequence[Any]:
        """An answer that is a list of rows.

        Raises:
            StoreError: it is something else, as of a page that somebody on the way answers with.
        """
        if not isinstance(data, list):
            raise StoreError(f"{self.name}: the answer is none of PostgREST: {str(data)[:100]!r}")
        return data

    def close(self) -> None:
        self._http.close()


class Looked:
    """Whether the project was seen to let us in, as all threads know it."""

    done = False


class SupabaseWorker:
    """A worker of `Threads`."""

    def __init__(self, project: Project, looked: Looked) -> None:
        self._project = project
        self._looked = looked
        self._link: Link | None = None

    def run(self, calls: Sequence[Call[Link, Any]]) -> None:
        one_by_one(calls, self._persistently)

    def _persistently(self, call: Call[Link, Any]) -> Any:
        link = self._opened()
        link.ends = call.ends
        try:
            return self._once(link, call)
        except httpx.TimeoutException as exc:
            raise StoreTimeout("no answer within the deadline") from exc
        except (httpx.RequestError, APIError) as exc:
            if isinstance(exc, APIError) and exc.code not in UNDONE:
                raise link.understood(exc) from exc
        try:
            return self._once(link, call)
        except httpx.TimeoutException as exc:
            raise StoreTimeout("no answer within the deadline") from exc
        except httpx.RequestError as exc:
            raise StoreUnavailable(f"{link.name} can't be reached: {cause_of(exc)}") from exc
        except APIError as exc:
            raise link.understood(exc) from exc

    def _once(self, link: Link, call: Call[Link, Any]) -> Any:
        if not self._looked.done:
            nothing: dict[str, Any] = {"of_app": "", "of_tenant": "", "of_id": "", "upwards": True, "most": 1}
            link.rows(link.of("").rpc("traffic_cop_relatives", nothing).execute().data)
            self._looked.done = True
        return call.work(link)

    def _opened(self) -> Link:
        if self._link is None:
            try:
                self._link = Link(self._project)
            except OSError as exc:
                raise ConfigurationError(
                    f"file_metadata='{self._project.name}': ca_file={self._project.ca_file!r} can't be read: {exc}"
                ) from exc
        return self._link

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


def trusted(project: Project) -> ssl.SSLContext | bool:
    """What a server's certificate is checked against: the authority that was named, or all that are known."""
    if not project.url.startswith("https:"):
        return False  # there is no certificate, and reading all authorities takes 30 ms of each thread
    if project.ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=project.ca_file)
