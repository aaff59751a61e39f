"""Promotion: what a state is worth, in which tier it is to be kept, and why."""
