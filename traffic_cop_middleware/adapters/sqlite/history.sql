-- The history of the traffic, beside the documents. `app` is the namespace of the app; words are as in schema.sql. Each
-- statement may be run again.

-- In the order in which it is read: of a kind, from one time on to another.
CREATE TABLE IF NOT EXISTS traffic (
    app TEXT NOT NULL, resolution INTEGER NOT NULL, kind TEXT NOT NULL, start INTEGER NOT NULL, source INTEGER NOT NULL,
    name TEXT NOT NULL, method TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (app, resolution, kind, start, source, name, method)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS traffic_buckets ON traffic (app, resolution, start, source);

-- What is to be rolled up.
CREATE TABLE IF NOT EXISTS traffic_due (
    app TEXT NOT NULL, resolution INTEGER NOT NULL, start INTEGER NOT NULL, stamp INTEGER NOT NULL,
    PRIMARY KEY (app, resolution, start)
) WITHOUT ROWID;

-- Of each app the highest token that has written, and how often that was.
CREATE TABLE IF NOT EXISTS traffic_writes (
    app TEXT NOT NULL PRIMARY KEY, fence INTEGER, count INTEGER NOT NULL
);
