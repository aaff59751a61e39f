-- Metadata of files, beside the documents or in a file of their own. `app` is the namespace of the app; words are as in
-- schema.sql. Each statement may be run again.

CREATE TABLE IF NOT EXISTS state_files (
    app TEXT NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL,
    namespace TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL,
    path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, status TEXT NOT NULL,
    created_at REAL NOT NULL, done_at REAL, reason TEXT NOT NULL, about TEXT NOT NULL,
    PRIMARY KEY (app, tenant, id)
);
CREATE INDEX IF NOT EXISTS state_files_item ON state_files (app, tenant, namespace, key, version) WHERE status = 'done';
CREATE INDEX IF NOT EXISTS state_files_pending ON state_files (app, id, tenant) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS state_files_path ON state_files (app, path);

CREATE TABLE IF NOT EXISTS promotion_history (
    app TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
    from_tier TEXT NOT NULL, to_tier TEXT NOT NULL, at REAL NOT NULL, score REAL NOT NULL, reasons TEXT NOT NULL,
    file TEXT,
    PRIMARY KEY (app, tenant, namespace, key, version, to_tier)
);
CREATE INDEX IF NOT EXISTS promotion_history_newest ON promotion_history (app, tenant, namespace, key, at);

-- Both ends are files of the tenant.
CREATE TABLE IF NOT EXISTS state_lineage (
    app TEXT NOT NULL, tenant TEXT NOT NULL, child TEXT NOT NULL, parent TEXT NOT NULL, relation TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (app, tenant, child, parent, relation)
);
CREATE INDEX IF NOT EXISTS state_lineage_parent ON state_lineage (app, tenant, parent);

CREATE TABLE IF NOT EXISTS access_patterns (
    app TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
    hour INTEGER NOT NULL, worker TEXT NOT NULL,
    reads INTEGER NOT NULL, writes INTEGER NOT NULL, last_at REAL NOT NULL,
    PRIMARY KEY (app, tenant, namespace, key, hour, worker)
);
CREATE INDEX IF NOT EXISTS access_patterns_hour ON access_patterns (app, hour);
