"""Instances of services: announced by themselves, known to those who send them requests."""
