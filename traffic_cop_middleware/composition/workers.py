"""Whether this process is one of several that serve the same app, as far as it can be seen from inside."""

from __future__ import annotations

import multiprocessing
import os


def sign_of_several() -> str | None:
    """What says so, in words; `None` where nothing does."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    signs = {
        "this process is a worker of another": multiprocessing.parent_process() is not None,
        f"WEB_CONCURRENCY is {workers}": workers.isdecimal() and int(workers) > 1,
        "gunicorn started this process": os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"),
    }
    return next((sign for sign, seen in signs.items() if seen), None)
