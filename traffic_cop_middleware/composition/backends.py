"""From a URL to an opened backend; middlewares that name the same one share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from traffic_cop_middleware.composition.schemes import adapter_for
from traffic_cop_middleware.composition.sharing import Handle
from traffic_cop_middleware.contracts import Backend, Event, Opener

GROUP = "traffic_cop_middleware.backends"
OURS = {
    "memory": "memory",
    **dict.fromkeys(("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"), "redis"),
    **dict.fromkeys(("redis+cluster", "rediss+cluster"), "redis.cluster"),
}
"""URL scheme -> module of ours under `adapters`; the extra that brings its driver has the name of its first part."""


def opener(url: str) -> Opener:
    """The adapter for a URL's scheme.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    example = "'memory://' or 'redis://localhost:6379/0'"
    return cast("Opener", adapter_for(url, kwarg="backend", group=GROUP, ours=OURS, example=example))


class BackendHandle(Handle[Backend]):
    """A backend that this process opened for a URL, or shares with those who named the same one.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(
        self, url: str, *, loop: object, namespace: str, deadline: float, notify: Callable[[Event], None]
    ) -> None:
        super().__init__(
            url, kind="backend", opener=opener, loop=loop, namespace=namespace, deadline=deadline, notify=notify
        )

    @property
    def backend(self) -> Backend:
        return self.product
