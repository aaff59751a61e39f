"""From a URL to an opened document store; who names the same one shares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from traffic_cop_middleware.composition.schemes import adapter_for
from traffic_cop_middleware.composition.sharing import Handle
from traffic_cop_middleware.contracts import DocumentOpener, DocumentStore, Event

GROUP = "traffic_cop_middleware.documents"
OURS = {
    "memory": "memory.documents",
    "sqlite": "sqlite.documents",
    "arangodb": "arangodb.documents",
    "arangodb+https": "arangodb.documents",
}


def opener(url: str) -> DocumentOpener:
    """The adapter for a URL's scheme.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    example = "'sqlite:///state.db' or 'arangodb://user:password@localhost:8529/database'"
    return cast("DocumentOpener", adapter_for(url, kwarg="documents", group=GROUP, ours=OURS, example=example))


class GivenDocuments:
    """A document store that the user opened, and closes."""

    def __init__(self, documents: DocumentStore) -> None:
        self.documents = documents

    async def connect(self, *, patience: float) -> None:
        """It is open."""

    async def close(self) -> None:
        """It is its owner's to close."""


class DocumentsHandle(Handle[DocumentStore]):
    """A document store that this process opened for a URL, or shares with those who named the same one.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(
        self, url: str, *, loop: object, namespace: str, deadline: float, notify: Callable[[Event], None]
    ) -> None:
        super().__init__(
            url, kind="documents", opener=opener, loop=loop, namespace=namespace, deadline=deadline, notify=notify
        )

    @property
    def documents(self) -> DocumentStore:
        return self.product
