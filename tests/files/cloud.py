"""State in a real Redis, documents in the ArangoDB double, objects in the Cloud Storage double, metadata in a real
PostgreSQL under PostgREST: each by its own client, behind something that loses replies."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.arangodb_double import ArangoDouble
from tests.arangodb_double import running_double as running_arango
from tests.files.houses import FileState, file_state
from tests.gcs_double import GcsDouble
from tests.gcs_double import running_double as running_gcs
from tests.postgrest import Fault, Gateway, Project, token
from tests.redis_proxy import Losing
from tests.servers import RedisServer


class Cloud:
    """The servers of one test. `app` is its namespace in all of them."""

    def __init__(
        self,
        redis: RedisServer,
        proxy: Losing,
        documents: ArangoDouble,
        objects: GcsDouble,
        project: Project,
        gateway: Gateway,
    ) -> None:
        self.app = f"cloud-{secrets.token_hex(4)}"
        self.redis = redis
        self.proxy = proxy
        self.documents = documents
        self.objects = objects
        self.project = project
        self.gateway = gateway

    @property
    def stores(self) -> tuple[str, str, str, str]:
        """The URLs, Redis without the proxy."""
        metadata = f"supabase+http://{token('traffic_cop')}@127.0.0.1:{self.gateway.port}"
        return self.redis.url, self.documents.url, self.objects.url, metadata

    @contextlib.asynccontextmanager
    async def house(self, *, deadline: float | None = None, proxy: bool = False) -> AsyncIterator[FileState]:
        """State on these servers; a call to the objects may take `deadline` seconds."""
        redis, documents, objects, metadata = self.stores
        if deadline is not None:
            objects += f"?deadline={deadline}"
        async with file_state(
            self.proxy.url if proxy else redis, documents, objects, metadata, namespace=self.app
        ) as house:
            yield house

    def forget_requests(self) -> None:
        self.proxy.asked.clear()
        self.documents.requests.clear()
        self.objects.requests.clear()
        self.gateway.requests.clear()

    def requests(self) -> dict[str, list[str]]:
        """What was asked of each server since, on the wire."""
        return {
            "redis": list(self.proxy.asked),
            "documents": list(self.documents.requests),
            "objects": list(self.objects.requests),
            "metadata": [f"{method} {path.partition('?')[0]}" for method, path, _ in self.gateway.requests],
        }

    def lose(self, server: str, requests: Sequence[str], number: int, *, times: int) -> None:
        """Of these requests that a server is to get, the reply to that number (from 0) and to the `times - 1` tries
        after it are lost: what was asked is done, and the connection closed."""
        name = requests[number]
        passed: list[Any] = [None] * requests[:number].count(name)
        if server == "redis":
            self.proxy.lost = range(len(self.proxy.asked) + number, len(self.proxy.asked) + number + times)
        elif server == "documents":
            self.documents.lost_replies = times
        elif server == "objects":
            self.objects.faults[name] = [*passed, *["lost"] * times]
        else:
            method, _, path = name.partition(" ")
            self.gateway.faults += [Fault("lost", method, path)] * times

    def fail_metadata(self, status: int) -> None:
        """The metadata's next requests are answered with this status."""
        self.gateway.faults = [Fault(status, method, "/") for method in ("GET", "POST", "PATCH")] * 20

    def all_are_lost(self) -> bool:
        """Whether all replies were lost that were to be."""
        faults = self.documents.lost_replies or any(self.objects.faults.values()) or self.gateway.faults
        return not faults and all(number < len(self.proxy.asked) for number in self.proxy.lost)


@contextlib.asynccontextmanager
async def running_cloud(redis: RedisServer, project: Project) -> AsyncIterator[Cloud]:
    with running_arango() as documents, running_gcs() as objects, project.gateway() as gateway:
        async with Losing(redis.port) as proxy:
            yield Cloud(redis, proxy, documents, objects, project, gateway)
