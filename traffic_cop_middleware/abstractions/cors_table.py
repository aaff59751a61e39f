"""Which CORS policy a path has: found as gateway routes are, so that their precedence is the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.gateway_routes import PARAM, GatewayRoute, gateway_route
from traffic_cop_middleware.abstractions.route_matching import GatewayTable
from traffic_cop_middleware.errors import ConfigurationError

LONGEST_NAME = 200


class CorsTable:
    """Policies by name and by path; it never changes.

    Raises:
        ConfigurationError: a name or policy can't be used, or two policies are for one path.
    """

    __slots__ = ("_named", "_paths")

    def __init__(self, policies: Mapping[str, CorsPolicy] | None = None) -> None:
        self._named: dict[str, CorsPolicy] = {}
        routes: list[GatewayRoute] = []
        owners: dict[str, str] = {}
        for name, given in (policies or {}).items():
            policy = self._named[name] = _named(name, given)
            for path in policy.paths:
                alike = PARAM.sub("{}", path)
                other = owners.setdefault(alike, name)
                if other != name:
                    raise ConfigurationError(
                        f"cors: {other!r} and {name!r} are both for the path {path!r}. Give one of them other paths; "
                        "paths=() is for a policy that only gateway routes name"
                    )
                routes.append(gateway_route(str(len(routes)), path, to=policy))
        self._paths = GatewayTable(routes)

    def __len__(self) -> int:
        return len(self._named)

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they were given."""
        return iter(self._named)

    def named(self, name: str) -> CorsPolicy | None:
        return self._named.get(name)

    def find(self, raw_path: bytes) -> CorsPolicy | None:
        """The policy for one of the app's own paths, as it came; None where there is none.

        Nor has a path one that no gateway route takes (`gateway_routes` says which): no browser sends it like that.
        """
        found = self._paths.find("GET", "", raw_path, (), b"")
        if not found:
            return None
        policy: CorsPolicy = found[0].to
        return policy


def _named(name: str, policy: CorsPolicy) -> CorsPolicy:
    """The policy with its name in it, for events."""
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"cors={{{name!r}: …}}: a policy has a name of 1 to {LONGEST_NAME} printable characters"
        )
    if not isinstance(policy, CorsPolicy):
        raise ConfigurationError(f"cors={{{name!r}: {policy!r}}}: write CorsPolicy(origins=…)")
    named = replace(policy)  # the given one may stand in another table under another name
    object.__setattr__(named, "name", name)
    return named
