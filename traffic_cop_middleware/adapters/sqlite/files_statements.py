"""What is asked of the tables of file metadata. Words come as bytes and are cast to TEXT (`raw_of` says why)."""

COLUMNS = """
tenant, namespace, key, id, version, kind, path, sha256, size, status, created_at, done_at, reason, about
"""
VALUES = """
:app, CAST(:tenant AS TEXT), CAST(:namespace AS TEXT), CAST(:key AS TEXT), CAST(:id AS TEXT), :version, :kind,
CAST(:path AS TEXT), CAST(:sha256 AS TEXT), :size, :status, :created_at, :done_at, :reason, CAST(:about AS TEXT)
"""
ITEM = """
app = :app AND tenant = CAST(:tenant AS TEXT) AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
"""
FILE = "app = :app AND tenant = CAST(:tenant AS TEXT) AND id = CAST(:id AS TEXT)"

# No input is in what these are made of.
ANNOUNCE = f"INSERT INTO state_files (app, {COLUMNS}) VALUES ({VALUES}) ON CONFLICT DO NOTHING"  # noqa: S608
FINISH = f"""
INSERT INTO state_files (app, {COLUMNS}) VALUES ({VALUES})
ON CONFLICT (app, tenant, id) DO UPDATE SET status = 'done', done_at = excluded.done_at, reason = ''
    WHERE status NOT IN ('done', 'deleted')
"""  # noqa: S608
SET_STATUS = (
    f"UPDATE state_files SET status = :status, reason = :reason, done_at = :at WHERE {FILE} AND status <> :unless"  # noqa: S608
)

LOAD = f"SELECT {COLUMNS} FROM state_files WHERE {FILE}"  # noqa: S608
OF_ITEM = f"""
SELECT {COLUMNS} FROM state_files
WHERE {ITEM} AND status = 'done' AND version < :before AND kind = coalesce(:kind, kind)
ORDER BY version DESC, id LIMIT :most
"""  # noqa: S608
LIST = f"""
SELECT {COLUMNS} FROM state_files
WHERE app = :app AND tenant = CAST(:tenant AS TEXT) AND status = 'done' AND kind = coalesce(:kind, kind)
    AND id > CAST(:after AS TEXT)
ORDER BY id LIMIT :most
"""  # noqa: S608
PENDING = f"""
SELECT {COLUMNS} FROM state_files
WHERE app = :app AND status = 'pending' AND created_at < :before AND id > CAST(:after AS TEXT)
ORDER BY id, tenant LIMIT :most
"""  # noqa: S608
REFERRED = """
SELECT 1 FROM state_files
WHERE app = ? AND path = CAST(? AS TEXT) AND (status IN ('pending', 'done', 'quarantined') OR done_at >= ?) LIMIT 1
"""

NOTE = """
INSERT INTO promotion_history
    (app, tenant, namespace, key, version, from_tier, to_tier, at, score, reasons, file)
VALUES (:app, CAST(:tenant AS TEXT), CAST(:namespace AS TEXT), CAST(:key AS TEXT), :version,
        CAST(:former AS TEXT), CAST(:to AS TEXT), :at, :score, :reasons, CAST(:file AS TEXT))
ON CONFLICT DO NOTHING
"""
HISTORY = f"""
SELECT version, from_tier, to_tier, at, score, reasons, file FROM promotion_history
WHERE {ITEM} ORDER BY at DESC, version DESC, to_tier DESC LIMIT :most
"""  # noqa: S608

JOIN = """
INSERT INTO state_lineage (app, tenant, child, parent, relation, at)
VALUES (:app, CAST(:tenant AS TEXT), CAST(:child AS TEXT), CAST(:parent AS TEXT), :relation, :at)
ON CONFLICT DO NOTHING
"""
PARENTS = f"SELECT parent, relation FROM state_lineage WHERE {FILE.replace('id =', 'child =')}"  # noqa: S608
CHILDREN = f"SELECT child, relation FROM state_lineage WHERE {FILE.replace('id =', 'parent =')}"  # noqa: S608

SAW = """
INSERT INTO access_patterns (app, tenant, namespace, key, hour, worker, reads, writes, last_at)
VALUES (:app, CAST(:tenant AS TEXT), CAST(:namespace AS TEXT), CAST(:key AS TEXT), :hour, CAST(:worker AS TEXT),
        :reads, :writes, :last_at)
ON CONFLICT (app, tenant, namespace, key, hour, worker) DO UPDATE SET
    reads = excluded.reads, writes = excluded.writes, last_at = excluded.last_at
"""
USAGE = f"""
SELECT coalesce(sum(reads), 0), coalesce(sum(writes), 0), max(last_at) FROM access_patterns
WHERE {ITEM} AND hour >= :since_hour
"""  # noqa: S608
FORGET_USAGE = "DELETE FROM access_patterns WHERE app = ? AND hour < ?"
