"""What is added to a cop before its app starts, beside what its kwargs say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.promotion.hooks import PromotionHook, check_hook
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.contracts import Observer
from traffic_cop_middleware.cop.needs import Needs
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.marks import limits_of
from traffic_cop_middleware.middleware.plans import Planner
from traffic_cop_middleware.middleware.routes import Limits, RouteKwargs, route
from traffic_cop_middleware.middleware.subtrees import Subtree

HookFunction = TypeVar("HookFunction", bound=PromotionHook)


class Additions:
    """Limits, routes, hooks and observers, one by one. A bad one is an error where it is added."""

    _observers: Observers
    _needs: Needs
    _planner: Planner
    _gateway: Gateway
    _hooks: list[PromotionHook]

    def limit(self, pattern: str, limits: Limits) -> None:
        """Limit a whole subtree of paths: `cop.limit("/admin/*", "10/minute")`, added to the stack's limits.

        One bucket per key over the subtree.

        Raises:
            ConfigurationError: the pattern or a limit can't be used.
        """
        added = limits_of(limits, "limits")
        self._needs.check_keys(added, f"cop.limit({pattern!r}, …): ")
        self._planner.add(Subtree(pattern, added))

    def route(self, pattern: str, *, to: Any, **settings: Unpack[RouteKwargs]) -> None:
        """Send requests that match elsewhere: `cop.route("/billing/*", to="http://billing:8080")`.

        See `route` for what there is to set. Routes stand before the app's own.

        Raises:
            ConfigurationError: a value can't be used, or there is a route of that name.
            MissingExtra: there is an upstream, and no driver for it.
        """
        self._gateway.add(route(pattern, to=to, **settings))

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of every event, synchronously; calling what this returns ends that.

        Raises:
            ConfigurationError: it can't be called, or is a coroutine function.
        """
        if not callable(observer) or inspect.iscoroutinefunction(observer):
            raise ConfigurationError(
                f"observer={observer!r} must be a plain function of one event; it is called inside the request, so it "
                "only takes note"
            )
        return self._observers.subscribe(observer)

    def promotion_hook(self, hook: HookFunction) -> HookFunction:
        """Let a function of the state and its verdict, plain or async, have a say: `@cop.promotion_hook`.

        It gives a verdict (`verdict.at_least("immediate", "why")`, `at_most`, `as_file`, `veto`), or `None` for no say.
        Several are asked in the order in which they were added. One that fails is logged and left out.

        Raises:
            ConfigurationError: it can't be called with two arguments.
        """
        check_hook(hook)
        self._hooks.append(hook)
        return hook
