"""What is asked of the file. Words come as bytes and are cast to TEXT (`raw_of` says why)."""

# Two looks, each along an index, so that no values are sorted. At one version the documents' is the later shape.
NEWEST = """
SELECT * FROM (
    SELECT tenant, namespace, key, version, value, tier, named, written_at, expires_at, 0 AS waits FROM documents
    WHERE app = :app AND tenant = CAST(:tenant AS TEXT)
        AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
)
UNION ALL
SELECT * FROM (
    SELECT tenant, namespace, key, version, value, tier, named, written_at, expires_at, 1 AS waits FROM outbox
    WHERE app = :app AND tenant = CAST(:tenant AS TEXT)
        AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
    ORDER BY version DESC, id DESC LIMIT 1
)
ORDER BY version DESC, waits LIMIT 1
"""

VERSION = """
SELECT version, value IS NULL FROM documents
WHERE app = :app AND tenant = CAST(:tenant AS TEXT)
    AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
"""

STORE = """
INSERT INTO documents (app, tenant, namespace, key, version, value, tier, named, written_at, expires_at)
VALUES (:app, CAST(:tenant AS TEXT), CAST(:namespace AS TEXT), CAST(:key AS TEXT),
        :version, CAST(:value AS TEXT), :tier, :named, :written_at, :expires_at)
ON CONFLICT (app, tenant, namespace, key) DO UPDATE SET
    version = excluded.version, value = excluded.value, tier = excluded.tier, named = excluded.named,
    written_at = excluded.written_at, expires_at = excluded.expires_at
"""

REMEMBER = """
INSERT OR REPLACE INTO history
    (app, tenant, namespace, key, version, value, tier, named, written_at, expires_at, stored_at)
VALUES (:app, CAST(:tenant AS TEXT), CAST(:namespace AS TEXT), CAST(:key AS TEXT),
        :version, CAST(:value AS TEXT), :tier, :named, :written_at, :expires_at, :stored_at)
"""

# What a reshape changes, where an item is at the version: its document, that version's history, what waits.
RESHAPE = tuple(
    f"""
UPDATE {table} SET value = CAST(:value AS TEXT), tier = :tier
WHERE app = :app AND tenant = CAST(:tenant AS TEXT)
    AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
    AND version = :version AND value IS NOT NULL
"""  # noqa: S608 - no word from outside
    for table in ("documents", "history", "outbox")
)

TRIM = """
DELETE FROM history
WHERE app = :app AND tenant = CAST(:tenant AS TEXT)
    AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
    AND version <= (
        SELECT version FROM history
        WHERE app = :app AND tenant = CAST(:tenant AS TEXT) AND namespace = CAST(:namespace AS TEXT)
            AND key = CAST(:key AS TEXT)
        ORDER BY version DESC LIMIT 1 OFFSET :kept
    )
"""

# Two walks in the order of keys that SQLite merges as far as the limit: what the documents have and the outbox has not
# newer, and the newest of what the outbox has and the documents have not.
LIST = """
SELECT tenant, namespace, key, version, value, tier, named, written_at, expires_at FROM documents AS d
WHERE app = :app AND tenant = CAST(:tenant AS TEXT) AND namespace = CAST(:namespace AS TEXT)
    AND key >= CAST(:first AS TEXT) AND key < CAST(:last AS TEXT)
    AND value IS NOT NULL AND (expires_at IS NULL OR expires_at > :now)
    AND NOT EXISTS (
        SELECT 1 FROM outbox AS o
        WHERE o.app = d.app AND o.tenant = d.tenant AND o.namespace = d.namespace AND o.key = d.key
            AND o.version > d.version
    )
UNION ALL
SELECT tenant, namespace, key, version, value, tier, named, written_at, expires_at FROM outbox AS w
WHERE app = :app AND tenant = CAST(:tenant AS TEXT) AND namespace = CAST(:namespace AS TEXT)
    AND key >= CAST(:first AS TEXT) AND key < CAST(:last AS TEXT)
    AND value IS NOT NULL AND (expires_at IS NULL OR expires_at > :now)
    AND NOT EXISTS (
        SELECT 1 FROM outbox AS o
        WHERE o.app = w.app AND o.tenant = w.tenant AND o.namespace = w.namespace AND o.key = w.key
            AND (o.version > w.version OR (o.version = w.version AND o.id > w.id))
    )
    AND NOT EXISTS (
        SELECT 1 FROM documents AS d
        WHERE d.app = w.app AND d.tenant = w.tenant AND d.namespace = w.namespace AND d.key = w.key
            AND d.version >= w.version
    )
ORDER BY key LIMIT :most
"""

HISTORY = """
SELECT tenant, namespace, key, version, value, tier, named, written_at, expires_at, stored_at FROM history
WHERE app = :app AND tenant = CAST(:tenant AS TEXT)
    AND namespace = CAST(:namespace AS TEXT) AND key = CAST(:key AS TEXT)
    AND version < :before
ORDER BY version DESC LIMIT :most
"""

# Found by the two partial indexes. What waits is left: without its document an older entry would be the newest again.
ENDED = """
SELECT rowid FROM documents AS d
WHERE app = :app AND expires_at IS NOT NULL AND expires_at < :now
    AND NOT EXISTS (
        SELECT 1 FROM outbox AS o
        WHERE o.app = d.app AND o.tenant = d.tenant AND o.namespace = d.namespace AND o.key = d.key
    )
UNION ALL
SELECT rowid FROM documents AS d
WHERE app = :app AND value IS NULL AND written_at < :tombstones_before AND (expires_at IS NULL OR expires_at >= :now)
    AND NOT EXISTS (
        SELECT 1 FROM outbox AS o
        WHERE o.app = d.app AND o.tenant = d.tenant AND o.namespace = d.namespace AND o.key = d.key
    )
LIMIT :most
"""
FORGET_HISTORY = """
DELETE FROM history WHERE (app, tenant, namespace, key) =
    (SELECT app, tenant, namespace, key FROM documents WHERE rowid = ?)
"""

# The outbox

APPEND = """
INSERT INTO outbox (app, tenant, namespace, key, version, value, tier, named, written_at, expires_at)
VALUES (:app, CAST(:tenant AS TEXT), CAST(:namespace AS TEXT), CAST(:key AS TEXT),
        :version, CAST(:value AS TEXT), :tier, :named, :written_at, :expires_at)
"""

# Ids grow, so no more wait than lie between the first and the last: the count is asked for only where that may be many.
SPAN = "SELECT (SELECT min(id) FROM outbox), (SELECT max(id) FROM outbox)"
COUNT = "SELECT count(*) FROM (SELECT 1 FROM outbox WHERE app = :app LIMIT :most)"

# `+app`: by ids, so that it ends at the limit, and not by the index and a sort of all that waits.
CLAIMABLE = """
SELECT id, claims, tenant, namespace, key FROM outbox
WHERE +app = :app AND (claimed_at IS NULL OR claimed_at NOT BETWEEN :now - :idle AND :now + :ahead)
ORDER BY id LIMIT :most
"""

BURY = """
INSERT OR REPLACE INTO dead
    (id, app, tenant, namespace, key, version, value, tier, named, written_at, expires_at, claims, reason, buried_at)
SELECT id, app, tenant, namespace, key, version, value, tier, named, written_at, expires_at, claims, :reason, :now
FROM outbox WHERE id = :id AND app = :app
"""

DEAD = """
SELECT tenant, namespace, key, version, value, tier, named, written_at, expires_at, id, claims, reason FROM dead
WHERE app = :app ORDER BY buried_at, id LIMIT :most
"""

REVIVE = """
INSERT INTO outbox (id, app, tenant, namespace, key, version, value, tier, named, written_at, expires_at)
SELECT id, app, tenant, namespace, key, version, value, tier, named, written_at, expires_at
FROM dead WHERE id = :id AND app = :app
"""
