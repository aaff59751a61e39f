"""`supabase+https://KEY@project.supabase.co`: metadata of files in Supabase (PostgreSQL behind PostgREST)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from traffic_cop_middleware.adapters.supabase.urls import project_of
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import MissingExtra

if TYPE_CHECKING:
    from traffic_cop_middleware.adapters.supabase.store import SupabaseFiles


def migration_sql() -> str:
    """The SQL that makes the tables, the functions and the row-level security. It may be run again at any time."""
    return files(__name__).joinpath("migration.sql").read_text()


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> SupabaseFiles:
    """`supabase+https://KEY@project.supabase.co`, or `supabase+https://KEY:TOKEN@…` where the gateway wants a key that
    it knows beside the token of the role that asks (`migration_sql` says how both are had).

    `supabase+http://…` goes to this host and to private networks, and elsewhere with `?insecure=1`. `?deadline=2` is
    the seconds of a call, `?threads=4` how many calls are made at once, `?ca_file=/path.pem` the authority that signed
    the server's certificate.
    """
    project, options = project_of(url)
    try:
        from traffic_cop_middleware.adapters.supabase.store import SupabaseFiles
    except ImportError as exc:
        raise MissingExtra(
            f"file_metadata {project.name} needs a driver that is not installed ({exc}): "
            "pip install 'traffic-cop-middleware[supabase]'"
        ) from exc
    return SupabaseFiles(
        project,
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        threads=int(options["threads"] or 1),
    )
