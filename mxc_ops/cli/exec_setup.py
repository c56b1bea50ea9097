"""``mxc-exec --setup-hyperlight``: images of runtimes, and a warm template of each. Spec: cli-sdk.md §1.

Upstream fetches an image and warms it; ours is built here, by its recipe.
"""

from __future__ import annotations

from backends.errors import MxcError
from backends.hyperlight_settings import RUNTIMES, Runtime
from backends.virtual_machine import CommandKind
from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import printable

_NOTHING_TO_DO = {CommandKind.PYTHON: "pass", CommandKind.NODE: "0"}


def set_up_hyperlight(names: str, *, anew: bool) -> int:
    """Have everything that runs of some runtimes start from. Returns the exit code, 0 or 1.

    Parameters
    ----------
    names: of runtimes, with commas between; "" means all that have a recipe.
    anew: build images of today's packages even where there are some.
    """
    known = {runtime.value: runtime for runtime in Runtime if runtime is not Runtime.DOTNET_JIT}
    wanted = [name.strip() for name in names.split(",")] if names else list(known)
    if wrong := [name for name in wanted if name not in known]:
        tell(f"error: no recipe makes the runtime '{printable(wrong[0])}'; expected: {', '.join(known)}")
        return 1
    runtimes = [known[name] for name in dict.fromkeys(wanted)]
    try:
        for image in dict.fromkeys(RUNTIMES[runtime].image for runtime in runtimes):
            _have(image, anew=anew)
        for runtime in runtimes:
            _warm(runtime)
    except MxcError as error:
        tell(f"error: the 'hyperlight' backend is not available: {error}")
        return 1
    return 0


def _have(image: str, *, anew: bool) -> None:
    from vm_images.inventory import is_known

    if not anew and is_known(image):
        return
    from mxc_ops.cli.image_progress import progress
    from vm_images.build import build_image
    from vm_images.recipe_file import load_recipe

    with progress(as_json=False) as report:
        build_image(load_recipe(image), report)


def _warm(runtime: Runtime) -> None:
    """Run what does nothing: the first run of an image leaves a template to all that come after it."""
    from mxc_ops.one_shot import run

    source = _NOTHING_TO_DO.get(RUNTIMES[runtime].command, "true")
    document = {
        "version": "1.1.0-alpha",
        "containment": "hyperlight",
        "hyperlight": {"runtime": runtime.value},
        "process": {"commandLine": source},
        "mxcOps": {"hyperlight": {"driver": "qemu"}},
    }
    run(document).check()
    print(f"{runtime.value}: ready")
