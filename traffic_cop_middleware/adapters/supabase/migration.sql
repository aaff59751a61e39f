-- Traffic Cop: metadata of files. Run it once in the SQL editor of the project, or as a migration of the Supabase CLI
-- (`python -m traffic_cop_middleware.adapters.supabase` prints it); it may be run again at any time. It needs PostgreSQL
-- 13 or newer, Supabase's roles (authenticator, anon, authenticated, service_role), and a PostgREST that gives 1000 rows
-- of a reply (`max rows`, Supabase's default).
--
-- Who may do what (row-level security, enabled and forced on each table):
--   traffic_cop     The role that the app's key is for. It sees and writes the rows of one tenant: the one that the
--                   request names in the header `x-traffic-cop-tenant`, as a JSON string ("acme"; "" is the app).
--                   Chores that go over all tenants say `x-traffic-cop-scope: all`: they may read everything and keep
--                   and remove counts of use, and no more than that. A request without either sees nothing.
--   authenticated   Your users may read what is of the tenant that their token names: the claim `tenant`, which only
--                   the issuer may set (an access token hook of yours, never user_metadata). They write nothing.
--   anon            Nothing.
--   service_role    Works as a key of the app too, but it bypasses row-level security: then only the app's own filters
--                   keep the tenants apart. Prefer a key of traffic_cop.
--
-- How to mint that key: a JWT with the claim {"role": "traffic_cop", "exp": <seconds since the epoch>}, signed with the
-- project's JWT secret (HS256), or with a signing key of its own that you have imported. In Python:
--     jwt.encode({"role": "traffic_cop", "exp": int(time.time()) + 365 * 86400}, JWT_SECRET, algorithm="HS256")
-- Supabase's gateway wants a key that it knows beside it (the publishable or anon key), so the URL has both:
--     supabase+https://PUBLISHABLE_KEY:JWT@project.supabase.co
-- Who has it can read and write all tenants' metadata, one request after another: keep it as a database password.
--
-- Times are seconds since the epoch (to_timestamp(created_at) reads them). `app` is the namespace of the app, so that
-- several apps may share a project. Words are compared by code point (COLLATE "C").

begin;

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'traffic_cop') then
        create role traffic_cop nologin noinherit;
    end if;
end
$$;
grant traffic_cop to authenticator;
grant usage on schema public to traffic_cop, authenticated, service_role;

-- The tenant that a request is for, and whether it is a chore over all of them. (plpgsql keeps the plan for the next
-- request of the connection; a function in SQL with a search_path of its own is planned at each call.)

create or replace function public.traffic_cop_tenant() returns text
language plpgsql stable security invoker set search_path = '' as $$
begin
    return (nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-traffic-cop-tenant')::jsonb #>> '{}';
end
$$;

create or replace function public.traffic_cop_scope_all() returns boolean
language plpgsql stable security invoker set search_path = '' as $$
begin
    return coalesce(
        nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-traffic-cop-scope' = 'all', false
    );
end
$$;

-- The tenant of a user's token. "" is the app itself, and no user's.
create or replace function public.traffic_cop_claimed_tenant() returns text
language plpgsql stable security invoker set search_path = '' as $$
begin
    return nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'tenant', '');
end
$$;

-- The tables

create table if not exists public.state_files (
    app text collate "C" not null,
    tenant text collate "C" not null,
    id text collate "C" not null,
    namespace text collate "C" not null,
    key text collate "C" not null,
    version bigint not null,
    kind text not null check (kind in ('promoted', 'snapshot', 'backup', 'archive')),
    path text collate "C" not null,
    sha256 text not null,
    size bigint not null check (size >= 0),
    status text not null check (status in ('pending', 'done', 'quarantined', 'abandoned', 'deleted')),
    created_at double precision not null,
    done_at double precision,
    reason text not null default '',
    about text not null default '{}',
    primary key (app, tenant, id)
);
create index if not exists state_files_item on public.state_files (app, tenant, namespace, key, version desc)
    where status = 'done';
create index if not exists state_files_pending on public.state_files (app, id, tenant) where status = 'pending';
create index if not exists state_files_path on public.state_files (app, path);

create table if not exists public.promotion_history (
    app text collate "C" not null,
    tenant text collate "C" not null,
    namespace text collate "C" not null,
    key text collate "C" not null,
    version bigint not null,
    from_tier text not null,
    to_tier text collate "C" not null,
    at double precision not null,
    score double precision not null,
    reasons jsonb not null,
    file text collate "C",
    primary key (app, tenant, namespace, key, version, to_tier)
);
create index if not exists promotion_history_newest on public.promotion_history (app, tenant, namespace, key, at desc);

-- An edge joins two files of one tenant: the foreign keys have the tenant in them.
create table if not exists public.state_lineage (
    app text collate "C" not null,
    tenant text collate "C" not null,
    child text collate "C" not null,
    parent text collate "C" not null,
    relation text collate "C" not null check (relation in ('supersedes', 'restored_from', 'part_of', 'copy_of')),
    at double precision not null,
    primary key (app, tenant, child, parent, relation),
    foreign key (app, tenant, child) references public.state_files (app, tenant, id),
    foreign key (app, tenant, parent) references public.state_files (app, tenant, id)
);
create index if not exists state_lineage_parent on public.state_lineage (app, tenant, parent);

create table if not exists public.access_patterns (
    app text collate "C" not null,
    tenant text collate "C" not null,
    namespace text collate "C" not null,
    key text collate "C" not null,
    hour bigint not null,
    worker text collate "C" not null,
    reads bigint not null check (reads >= 0),
    writes bigint not null check (writes >= 0),
    last_at double precision not null,
    primary key (app, tenant, namespace, key, hour, worker)
);
create index if not exists access_patterns_hour on public.access_patterns (app, hour);

-- Row-level security. A function in a subselect is asked once per statement, not once per row.

alter table public.state_files enable row level security;
alter table public.state_files force row level security;
alter table public.promotion_history enable row level security;
alter table public.promotion_history force row level security;
alter table public.state_lineage enable row level security;
alter table public.state_lineage force row level security;
alter table public.access_patterns enable row level security;
alter table public.access_patterns force row level security;

revoke all on public.state_files, public.promotion_history, public.state_lineage, public.access_patterns
    from public, anon, authenticated, traffic_cop, service_role;
grant select on public.state_files, public.promotion_history, public.state_lineage, public.access_patterns
    to authenticated;
grant select, insert, update on public.state_files to traffic_cop, service_role;
grant select, insert on public.promotion_history, public.state_lineage to traffic_cop, service_role;
grant select, insert, update, delete on public.access_patterns to traffic_cop, service_role;

drop policy if exists traffic_cop_users on public.state_files;
create policy traffic_cop_users on public.state_files for select to authenticated
    using (tenant = (select public.traffic_cop_claimed_tenant()));
drop policy if exists traffic_cop_users on public.promotion_history;
create policy traffic_cop_users on public.promotion_history for select to authenticated
    using (tenant = (select public.traffic_cop_claimed_tenant()));
drop policy if exists traffic_cop_users on public.state_lineage;
create policy traffic_cop_users on public.state_lineage for select to authenticated
    using (tenant = (select public.traffic_cop_claimed_tenant()));
drop policy if exists traffic_cop_users on public.access_patterns;
create policy traffic_cop_users on public.access_patterns for select to authenticated
    using (tenant = (select public.traffic_cop_claimed_tenant()));

drop policy if exists traffic_cop_reads on public.state_files;
create policy traffic_cop_reads on public.state_files for select to traffic_cop
    using (tenant = (select public.traffic_cop_tenant()) or (select public.traffic_cop_scope_all()));
drop policy if exists traffic_cop_adds on public.state_files;
create policy traffic_cop_adds on public.state_files for insert to traffic_cop
    with check (tenant = (select public.traffic_cop_tenant()));
drop policy if exists traffic_cop_changes on public.state_files;
create policy traffic_cop_changes on public.state_files for update to traffic_cop
    using (tenant = (select public.traffic_cop_tenant())) with check (tenant = (select public.traffic_cop_tenant()));

drop policy if exists traffic_cop_reads on public.promotion_history;
create policy traffic_cop_reads on public.promotion_history for select to traffic_cop
    using (tenant = (select public.traffic_cop_tenant()) or (select public.traffic_cop_scope_all()));
drop policy if exists traffic_cop_adds on public.promotion_history;
create policy traffic_cop_adds on public.promotion_history for insert to traffic_cop
    with check (tenant = (select public.traffic_cop_tenant()));

drop policy if exists traffic_cop_reads on public.state_lineage;
create policy traffic_cop_reads on public.state_lineage for select to traffic_cop
    using (tenant = (select public.traffic_cop_tenant()) or (select public.traffic_cop_scope_all()));
drop policy if exists traffic_cop_adds on public.state_lineage;
create policy traffic_cop_adds on public.state_lineage for insert to traffic_cop
    with check (tenant = (select public.traffic_cop_tenant()));

drop policy if exists traffic_cop_counts on public.access_patterns;
create policy traffic_cop_counts on public.access_patterns for all to traffic_cop
    using (tenant = (select public.traffic_cop_tenant()) or (select public.traffic_cop_scope_all()))
    with check (tenant = (select public.traffic_cop_tenant()) or (select public.traffic_cop_scope_all()));

-- The one function that writes: a file is done, its line of history and its edges are kept, all of it or nothing.
-- Repeated, or called by several at once, it changes nothing: the row's lock puts them in a line, a row that is done or
-- deleted stays as it is, and what is there already is kept. It has the caller's rights, so row-level security holds.

create or replace function public.traffic_cop_finish(file jsonb, promotion jsonb, edges jsonb)
returns public.state_files
language plpgsql volatile security invoker set search_path = '' as $$
declare
    given public.state_files := jsonb_populate_record(null::public.state_files, file);
    kept public.state_files;
begin
    given.status := 'done';
    given.reason := '';
    given.done_at := coalesce(given.done_at, extract(epoch from clock_timestamp()));
    insert into public.state_files select given.*
    on conflict (app, tenant, id) do update
        set status = 'done', done_at = excluded.done_at, reason = ''
        where state_files.status not in ('done', 'deleted');
    select * into strict kept from public.state_files as f
        where f.app = given.app and f.tenant = given.tenant and f.id = given.id;
    if jsonb_typeof(promotion) = 'object' then
        insert into public.promotion_history
        select * from jsonb_populate_record(null::public.promotion_history, promotion)
        on conflict do nothing;
    end if;
    insert into public.state_lineage
    select * from jsonb_populate_recordset(null::public.state_lineage, edges)
    on conflict do nothing;
    return kept;
end
$$;

-- The relatives of a file, level by level, so that each comes once and at its fewest steps, whatever diamonds and
-- circles there are; the nearest `most` of them. It reads only, and has the caller's rights. The plan is made once and
-- not at each level, which takes ten times as long.

create or replace function public.traffic_cop_relatives(
    of_app text, of_tenant text, of_id text, upwards boolean, most integer
) returns table (file jsonb, via text, relation text, steps integer)
language plpgsql stable security invoker set search_path = '' set plan_cache_mode = 'force_generic_plan' as $$
declare
    known text[] := array[of_id];
    level text[] := array[of_id];
    next_ids text[];
    next_via text[];
    next_relations text[];
    depth integer := 0;
    found_so_far integer := 0;
begin
    while cardinality(level) > 0 and found_so_far < most loop
        depth := depth + 1;
        select array_agg(n.id), array_agg(n.via), array_agg(n.relation) into next_ids, next_via, next_relations
        from (
            select distinct on (e.id) e.id, e.via, e.relation
            from (
                select l.parent as id, l.child as via, l.relation from public.state_lineage as l
                where upwards and l.app = of_app and l.tenant = of_tenant and l.child = any (level)
                union all
                select l.child, l.parent, l.relation from public.state_lineage as l
                where not upwards and l.app = of_app and l.tenant = of_tenant and l.parent = any (level)
            ) as e
            where e.id <> all (known)
            order by e.id, e.via, e.relation
            limit most - found_so_far
        ) as n;
        level := coalesce(next_ids, '{}');
        known := known || level;
        found_so_far := found_so_far + cardinality(level);
        return query
            select to_jsonb(f.*), n.via, n.relation, depth
            from unnest(next_ids, next_via, next_relations) with ordinality as n (id, via, relation, place)
            join public.state_files as f on f.app = of_app and f.tenant = of_tenant and f.id = n.id
            order by n.place;
    end loop;
end
$$;

revoke all on function public.traffic_cop_finish(jsonb, jsonb, jsonb),
    public.traffic_cop_relatives(text, text, text, boolean, integer),
    public.traffic_cop_tenant(), public.traffic_cop_scope_all(), public.traffic_cop_claimed_tenant()
    from public, anon, authenticated;
grant execute on function public.traffic_cop_finish(jsonb, jsonb, jsonb),
    public.traffic_cop_relatives(text, text, text, boolean, integer) to traffic_cop, service_role;
-- A policy is checked with the rights of who asks.
grant execute on function public.traffic_cop_tenant(), public.traffic_cop_scope_all() to traffic_cop;
grant execute on function public.traffic_cop_claimed_tenant() to authenticated;

commit;

notify pgrst, 'reload schema';
