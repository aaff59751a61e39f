"""ArangoDB, by python-arango in threads: documents that several hosts share."""
