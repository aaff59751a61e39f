"""One module or folder per product. No decisions; adapters do not know each other."""
