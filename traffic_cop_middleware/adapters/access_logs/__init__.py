"""Access logs of web servers, line by line: the common and combined formats, and JSON."""
