"""The decisions: what is taken from whom, what an outage means. No HTTP, no product, no framework."""
