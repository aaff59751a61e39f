-- Version 1 of the file. `app` is the namespace of the app (two of them may share a file); a word is TEXT in UTF-8 with
-- lone surrogates as they are, so that the order of bytes is the order of code points.

CREATE TABLE documents (
    app TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
    version INTEGER NOT NULL, value TEXT, tier TEXT NOT NULL, named INTEGER NOT NULL,
    written_at REAL NOT NULL, expires_at REAL,
    PRIMARY KEY (app, tenant, namespace, key)
);
CREATE INDEX documents_ending ON documents (app, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX documents_deleted ON documents (app, written_at) WHERE value IS NULL;

-- Each version that the documents had, the present one included.
CREATE TABLE history (
    app TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
    version INTEGER NOT NULL, value TEXT, tier TEXT NOT NULL, named INTEGER NOT NULL,
    written_at REAL NOT NULL, expires_at REAL,
    stored_at REAL NOT NULL,
    PRIMARY KEY (app, tenant, namespace, key, version)
);

-- What waits for the documents. An id is never used twice, so a late `settle` takes out nothing of others.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
    claims INTEGER NOT NULL DEFAULT 0, worker TEXT, claimed_at REAL, -- in front of the value, which may fill pages
    version INTEGER NOT NULL, value TEXT, tier TEXT NOT NULL, named INTEGER NOT NULL,
    written_at REAL NOT NULL, expires_at REAL
);
CREATE INDEX outbox_items ON outbox (app, tenant, namespace, key, version, id);

-- What could not be flushed, under the id that it had in the outbox.
CREATE TABLE dead (
    id INTEGER PRIMARY KEY,
    app TEXT NOT NULL, tenant TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL,
    version INTEGER NOT NULL, value TEXT, tier TEXT NOT NULL, named INTEGER NOT NULL,
    written_at REAL NOT NULL, expires_at REAL,
    claims INTEGER NOT NULL, reason TEXT NOT NULL, buried_at REAL NOT NULL
);
