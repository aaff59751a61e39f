"""What went wrong, below what the libraries say of it."""

from __future__ import annotations


def cause_of(exc: BaseException) -> str:
    """The error of the system below those of the libraries, which say much and little."""
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    return str(exc) or type(exc).__name__
