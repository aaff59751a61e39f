"""The only layer that sees `scope`, `receive` and `send`."""
