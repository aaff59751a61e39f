"""What the tree promises: light imports, no layer for its own sake, public names that do not drift."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import traffic_cop_middleware
from traffic_cop_middleware.cop import (
    CopSettings,
    MetricsKwargs,
    PromotionKwargs,
    RateLimitKwargs,
    RoutingKwargs,
    SessionKwargs,
)
from traffic_cop_middleware.middleware.routes import RouteKwargs

KWARGS = (CopSettings, MetricsKwargs, PromotionKwargs, RateLimitKwargs, SessionKwargs, RoutingKwargs, RouteKwargs)
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "traffic_cop_middleware"


def test_importing_the_package_loads_no_driver() -> None:
    drivers = ["redis", "hiredis", "arango", "google", "supabase", "httpx", "fastapi", "pytest", "aiohttp", "jwt"]
    drivers.append("opentelemetry")
    script = f"import sys, traffic_cop_middleware; print([d for d in {drivers!r} if d in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def _passes_on(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function's whole body calls a method of the same name with the same arguments."""
    body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(body) != 1 or not isinstance(body[0], ast.Return | ast.Expr):
        return False
    call = body[0].value
    if isinstance(call, ast.Await):
        call = call.value
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == function.name):
        return False
    own = [argument.arg for argument in function.args.args + function.args.kwonlyargs if argument.arg != "self"]
    given = [ast.unparse(argument) for argument in call.args] + [ast.unparse(k.value) for k in call.keywords]
    return bool(own) and own == given


def test_no_method_only_passes_its_arguments_on() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _passes_on(node)
    ]
    # `subscribe` of the cop checks what it passes on, so it is not one of these.
    assert found == []


def test_no_assert_checks_input_and_no_error_is_swallowed() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                found.append(f"{path}:{node.lineno} assert")
            if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body):
                found.append(f"{path}:{node.lineno} except: pass")
    assert found == []


def _signature(value: Any) -> str:
    """The names, kinds and defaults of the parameters; the types are in `tests/typing`."""
    shown = []
    for parameter in inspect.signature(value).parameters.values():
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**", parameter.KEYWORD_ONLY: "*, "}
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        shown.append(f"{star.get(parameter.kind, '')}{parameter.name}{default}")
    kwargs = [annotation for annotation in KWARGS if f"Unpack[{annotation.__name__}]" in str(inspect.signature(value))]
    shown += [f"*, {name}" for annotation in kwargs for name in annotation.__annotations__]
    listed = ", ".join(shown)
    first, star, rest = listed.partition("*, ")
    return f"({first}{star}{rest.replace('*, ', '')})"


def _own(value: type) -> tuple[list[type], dict[str, Any]]:
    """The bases and members of a class. What the files of `cop/` put together to one class is one class here."""
    bases: list[type] = []
    members: dict[str, Any] = {}
    for base in value.__bases__:
        if base.__module__.startswith("traffic_cop_middleware.cop."):
            inherited, theirs = _own(base)
            bases += [each for each in inherited if each not in bases]
            members = theirs | members
        else:
            bases.append(base)
    return bases, members | vars(value)


def public_api() -> list[str]:
    """Every public name with its signature, as `docs/api.md` has it."""
    lines = []
    for name in sorted(traffic_cop_middleware.__all__):
        value = getattr(traffic_cop_middleware, name)
        if inspect.isclass(value):
            bases, members = _own(value)
            lines.append(f"class {name}({', '.join(base.__name__ for base in bases)})")
            if not issubclass(value, Exception):
                lines.append(f"    __init__{_signature(value)}")
                for member, each in sorted(members.items()):
                    if member.startswith("_"):
                        continue
                    if inspect.isfunction(each):
                        lines.append(f"    {member}{_signature(each)}")
                    else:
                        lines.append(f"    {member}")
        elif inspect.isfunction(value):
            lines.append(f"{name}{_signature(value)}")
        else:
            lines.append(f"{name}: {type(value).__name__}")
    return lines


def test_the_cop_takes_the_kwargs_that_type_checkers_are_told_of() -> None:
    """`TrafficCop.__init__` hands all its kwargs on as `CopSettings`, by a cast: this sees that they are."""
    parameters = inspect.signature(traffic_cop_middleware.TrafficCop).parameters
    taken = {name: str(each.annotation).removesuffix(" | None") for name, each in parameters.items()}
    del taken["unknown"]
    told = {name: each.__forward_arg__.removesuffix(" | None") for name, each in CopSettings.__annotations__.items()}
    assert taken == told


def test_the_public_names_are_those_of_the_docs() -> None:
    """A change here needs a line in CHANGELOG.md; `python -m tests.test_architecture` prints what to paste."""
    page = (ROOT / "docs" / "api.md").read_text()
    block = re.search(r"<!-- snapshot -->\n```python\n(.*?)\n```", page, re.DOTALL)
    assert block is not None, "docs/api.md has lost its snapshot"
    assert block[1].splitlines() == public_api()


@pytest.mark.parametrize("name", [n for n in traffic_cop_middleware.__all__ if n[0].islower() or n[0].isupper()])
def test_every_public_name_says_what_it_gives(name: str) -> None:
    value = getattr(traffic_cop_middleware, name)
    assert inspect.getdoc(value), name
    assert f"`{name}" in (ROOT / "docs" / "api.md").read_text(), f"docs/api.md does not explain {name}"


if __name__ == "__main__":
    print("\n".join(public_api()))
