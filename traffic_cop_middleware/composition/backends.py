"""From a URL to an opened backend; middlewares that name the same one share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from traffic_cop_middleware.composition.schemes import adapter_for
from traffic_cop_middleware.composition.sharing import Handle
from traffic_cop_middleware.contracts import Backend, Event, Opener

GROUP = "traffic_cop_middleware.backends"
OURS = {"memory": "memory", "redis": "redis", "rediss": "redis", "unix": "redis"}
OURS = {
    "memory": "memory",
    **dict.fromkeys(("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"), "redis"),
}
"""URL scheme -> module of ours under `adapters`; it is also the name of the extra that brings its driver."""
OURS |= {"redis+cluster": "redis.cluster", "rediss+cluster": "redis.cluster"}
"""URL scheme -> module of ours under `adapters`; the extra that brings its driver has the name of its first part."""


def opener(url: str) -> Opener:
    """The adapter for a URL's scheme.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    example = "'memory://' or 'redis://localhost:6379/0'"
    return cast("Opener", adapter_for(url, kwarg="backend", group=GROUP, ours=OURS, example=example))
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in OURS:
        extra = OURS[scheme].partition(".")[0]
        try:
            return cast("Opener", importlib.import_module(f"traffic_cop_middleware.adapters.{OURS[scheme]}").open)
        except ImportError as exc:
            raise MissingExtra(
                f"backend {scheme}:// needs a driver that is not installed ({exc}): "
                f"pip install 'traffic-cop-middleware[{extra}]'"
            ) from exc
    for point in entry_points(group=GROUP, name=scheme):
        return cast("Opener", point.load())
    known = sorted({*OURS, *(point.name for point in entry_points(group=GROUP))})
    said = f"{scheme}://…" if scheme else "no URL scheme"
    raise ConfigurationError(
        f"backend: {said} is not known here. Write one of {', '.join(f'{name}://' for name in known)}, for example "
        "'memory://' or 'redis://localhost:6379/0'"
    )


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
