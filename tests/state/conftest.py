"""What the tests of the state share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.state.houses import KINDS, Open, opener


@pytest.fixture(params=KINDS[1:])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a house whose documents last."""
    return opener(request, tmp_path)
