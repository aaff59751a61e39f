"""Choosing an instance, and knowing which ones are fit to be chosen: no HTTP, no I/O, the clock is passed in."""
