"""Every public measure of the modules beside the contents page says what a reader needs, as those on it do."""

import importlib
import inspect

import pytest

MODULES = [
    "agreement",
    "change_point",
    "clustering",
    "dip",
    "distances",
    "dose",
    "factorial",
    "groups",
    "heterogeneity",
    "linear_null",
    "of_means",
    "psychometric",
    "views",
]
LINES = ("Definition:", "Shapes, units:", "Range", "ean over", "Raises:", "ource", "hen it misleads:")


def measures(name):
    """Functions written in the module; not the classes that carry their results, nor what it imports."""
    module = importlib.import_module(f"headlab.stats.{name}")
    found = {n: f for n, f in vars(module).items() if n[0].islower() and inspect.isfunction(f)}
    return module, {n: f for n, f in found.items() if f.__module__ == module.__name__}


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_say_what_a_reader_needs(name):
    module, found = measures(name)
    assert module.__doc__ and found
    for measure, function in found.items():
        for line in LINES:
            assert line in (function.__doc__ or ""), f"{name}.{measure} lacks {line}"


@pytest.mark.parametrize("name", MODULES)
def test_results_say_what_they_hold(name):
    module, _ = measures(name)
    for kind in vars(module).values():
        if inspect.isclass(kind) and kind.__module__ == module.__name__:
            assert kind.__doc__ and kind.__dataclass_params__.frozen, kind
            for part, method in vars(kind).items():
                if part[0].islower() and (inspect.isfunction(method) or isinstance(method, (property, classmethod))):
                    assert inspect.getdoc(getattr(kind, part)), f"{kind.__name__}.{part}"
