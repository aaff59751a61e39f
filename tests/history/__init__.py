"""The history of the traffic."""
