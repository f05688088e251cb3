"""The catalogue of images: names, choices, and what a key depends on."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.images.build import layer_key
from benchmarks.images.catalogue.all import QUICK, RECIPES, chosen
from benchmarks.images.catalogue.languages import FLASK, PYTHON
from benchmarks.images.tree import APP
from nydusify.startup.readiness import Port


def test_choices() -> None:
    assert [recipe.name for recipe in chosen("redis, perl")] == ["redis", "perl"]
    assert [recipe.name for recipe in chosen(None, quick=True)] == list(QUICK)
    assert len(chosen(None)) == len(RECIPES)
    with pytest.raises(LookupError, match=r"no image 'reddis'; there are busybox, "):
        chosen("reddis")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipe_is_whole(recipe: object) -> None:
    assert recipe in RECIPES.values()
    chosen_recipe = next(each for each in RECIPES.values() if each is recipe)
    for name, _ in chosen_recipe.run.mounts:
        assert (APP / chosen_recipe.name / name).is_dir()
    ready = chosen_recipe.run.ready
    if not isinstance(ready, Port):
        re.compile(ready.pattern)


def test_images_share_layers_by_key() -> None:
    assert layer_key(PYTHON.layers[0], "python") == layer_key(FLASK.layers[0], "flask")


def test_key_changes_with_what_a_layer_is_made_of() -> None:
    layer = FLASK.layers[2]
    keys = {
        layer_key(layer, "flask"),
        layer_key(layer, "redis"),
        layer_key(replace(layer, note="x"), "flask"),
        layer_key(replace(layer, change=PYTHON.layers[1].change), "flask"),
        layer_key(replace(layer, packages=("perl",)), "flask"),
    }
    assert len(keys) == 5
