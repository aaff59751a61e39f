"""`Transport` over HTTP/1.1."""
