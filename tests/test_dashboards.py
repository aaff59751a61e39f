"""The dashboard and the alert rules name metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.prometheus import exposition

GRAFANA = Path(__file__).parents[1] / "docs" / "grafana"
NAMES = re.compile(r"\b(?:http_server|traffic_cop)_[a-z_]+")


def known() -> set[str]:
    """Every name that a sample can have."""
    found = set()
    for line in exposition(Figures(), workers=1, openmetrics=False).splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


@pytest.mark.parametrize("file", ["traffic-cop.json", "alerts.yml"])
def test_every_metric_that_is_asked_for_exists(file: str) -> None:
    named = set(NAMES.findall((GRAFANA / file).read_text()))
    assert len(named) > 3
    assert named <= known()


def test_the_dashboard_is_json_whose_panels_do_not_overlap() -> None:
    dashboard = json.loads((GRAFANA / "traffic-cop.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        assert all(target["expr"] for target in panel["targets"])
        taken |= cells
