"""One text for one value, whatever text it is had from; what JSON does not have is refused."""

from __future__ import annotations

import json

import pytest

from traffic_cop_middleware.abstractions.json_texts import canonical


def test_order_of_keys_and_spaces_make_no_difference() -> None:
    value = {"b": [1.5, -0.0, 1e16, {"z": 1, "a": "é"}], "a": None}
    texts = (json.dumps(value), json.dumps(value, indent=1, sort_keys=True), json.dumps(value, ensure_ascii=False))
    assert {canonical(text) for text in texts} == {'{"a":null,"b":[1.5,-0.0,1e+16,{"a":"é","z":1}]}'}
    assert canonical('"\\ud83d\\ude00"') == '"😀"'


@pytest.mark.parametrize("text", ["NaN", "[1e999]", "[-Infinity]", '"\\ud800"', "[" * 100_000, "x", ""])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical(text)
