"""Images for tests: the shipped recipes, built when they are first needed and then kept.

They go into the store that `mxc-ops image build` uses, so that the commands under test find them by name, and
the next run of the tests finds them, too. What is kept is good for as long as it is made of our sources and
recipes of now; which packages are the newest is not asked again.
"""

from __future__ import annotations

from functools import cache

from backends.errors import BackendUnavailable
from backends.inside.store import AGENT, source_key
from backends.virtual_machine import Image, System
from vm_images.apt import Package, host_system
from vm_images.build import build_image
from vm_images.interpreters import INTERPRETERS
from vm_images.inventory import find
from vm_images.plan import Plan
from vm_images.recipe import Format
from vm_images.recipe_document import shipped_recipe
from vm_images.store import find_image

__all__ = ["image"]

_OF_THE_MOMENT = ("kernel", "packages", "busybox")


@cache
def image(name: str) -> Image:
    """The image of a shipped recipe: ``tiny``, ``base``, ``python`` or ``node``."""
    try:
        if _is_current(name):
            return find_image(name)
    except BackendUnavailable:
        pass  # there is none yet
    build_image(shipped_recipe(name), lambda _step: None)
    return find_image(name)


def _is_current(name: str) -> bool:
    recipe = shipped_recipe(name)
    waiting = INTERPRETERS[recipe.zygote] if recipe.zygote else None
    script, addon = (waiting.read_script(), waiting.addon_key) if waiting else (b"", "")
    nothing = Package("", "")
    system = host_system() if recipe.format is not Format.NONE else System()
    preloaded = waiting.read_preloaded() if waiting else b""
    plan = Plan(recipe, "x86_64", nothing, (), nothing, source_key(AGENT), script, addon, system, preloaded)
    wanted = plan.inputs()
    made_of = find(name).manifest["inputs"]
    return all(made_of.get(key) == value for key, value in wanted.items() if key not in _OF_THE_MOMENT)
