"""State of sessions, users and workflows: read, written, watched, flushed to the documents."""
