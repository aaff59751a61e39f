"""Where state lasts, and who gets it, as configured."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.promotion.hooks import PromotionHook
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.state.house import NEAR_ITEMS
from traffic_cop_middleware.abstractions.state.synchronisation import Service
from traffic_cop_middleware.composition.files_settings import FilesSettings
from traffic_cop_middleware.contracts import DocumentStore
from traffic_cop_middleware.errors import ConfigurationError

MOST_SERVICE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """The state's settings. Checked when made.

    `on` is false for a part of the cop that has no state, `promotion` is `None` where nothing is judged; `hooks` may
    get longer while the app is put together. `deadline` is the seconds that the documents may take.
    """

    documents: str | DocumentStore = field(default="memory://", repr=False)
    deadline: float = 2.0
    near_items: int = NEAR_ITEMS
    services: Mapping[str, Service] = field(default_factory=dict)
    files: FilesSettings = field(default_factory=FilesSettings)
    promotion: PromotionSettings | None = None
    hooks: Sequence[PromotionHook] = ()
    on: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.documents, str) and not hasattr(self.documents, "durable"):
            kind = type(self.documents).__name__  # its value may hold a password
            raise ConfigurationError(
                f"documents: a URL such as 'sqlite:///state.db' or an opened document store, not a {kind}"
            )
        if (
            isinstance(self.deadline, bool)
            or not isinstance(self.deadline, (int, float))
            or not 0 < self.deadline <= 60
        ):
            raise ConfigurationError(
                f"documents_deadline={self.deadline!r}: seconds that the documents may take for a call; 2 is usual"
            )
        if isinstance(self.near_items, bool) or not isinstance(self.near_items, int) or self.near_items < 0:
            raise ConfigurationError(
                f"state_near_items={self.near_items!r}: items that a worker keeps near, a whole number; 0 keeps none"
            )
        if not isinstance(self.services, Mapping):
            raise ConfigurationError(
                f"state_services={self.services!r}: {{'billing': an async function of what is pushed}}"
            )
        for name, service in self.services.items():
            called = service if inspect.isroutine(service) else getattr(service, "__call__", None)  # noqa: B004
            if (
                not isinstance(name, str)
                or not 0 < len(name) <= MOST_SERVICE
                or not inspect.iscoroutinefunction(called)
            ):
                raise ConfigurationError(
                    f"state_services[{name!r}]: a name of at most {MOST_SERVICE} characters, and an async function of "
                    f"what is pushed, not {service!r}"
                )

    @property
    def works(self) -> bool:
        """Whether something is to run beside the app."""
        in_memory = isinstance(self.documents, str) and self.documents.startswith("memory:")
        return self.on and (not in_memory or bool(self.services) or self.files.metadata is not None)
