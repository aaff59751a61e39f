"""Tests of promoted files."""
