"""Settings, URL scheme -> adapter, opening and closing."""
