"""The gateway between a raw client and a raw upstream: what bytes reach whom."""
