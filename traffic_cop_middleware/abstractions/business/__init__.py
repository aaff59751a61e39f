"""Business figures: what may be counted, what it came to, what it cost, and how it is exported."""
