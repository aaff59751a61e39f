"""SQLite: one file, durable against power loss, with nothing to install and shared by the processes of one host."""
