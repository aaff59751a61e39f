"""Prints the migration: `python -m traffic_cop_middleware.adapters.supabase > migration.sql`."""

from traffic_cop_middleware.adapters.supabase import migration_sql

print(migration_sql())
