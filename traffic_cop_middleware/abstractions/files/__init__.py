"""Promoted files: how they are written, found, restored and cleaned up."""
