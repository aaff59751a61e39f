"""What the gateway's tests share."""

from __future__ import annotations

import pytest

from tests.gateway.served import PARSERS


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    """Each of uvicorn's HTTP parsers: what one lets through, the other may not."""
    found: str = request.param
    return found
