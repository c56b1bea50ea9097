"""`mxc-ops image`: build, fetch, list, verify, remove and move the images that sandboxes start from.

Exit codes: 0 done; 1 it failed, or something that was verified is broken, or removal was refused.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from mxc_ops.cli.output import Parser, complete, print_document, print_table, warn
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from vm_images.build import Built
    from vm_images.store import Stored

_MIB = 1 << 20
_SHOWN_DIGITS = 12


def configure(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _configure_build(commands.add_parser("build", help="make an image, unless it is there already"))
    _configure_download(
        commands.add_parser("download", help="fetch another distribution's root, for LXC containers")
    )
    complete(commands.add_parser("list", help="the images of this host"), _list)
    verify = commands.add_parser("verify", help="compare every file of images with what was built")
    verify.add_argument("names", nargs="*", metavar="NAME", help="an image (default: all)")
    complete(verify, _verify)
    remove = commands.add_parser("remove", help="take a name away, and the image with its last name")
    remove.add_argument("names", nargs="+", metavar="NAME", help="an image, by name or key")
    complete(remove, _remove)
    complete(commands.add_parser("gc", help="remove images without a name, and remains of builds"), _gc)
    export = commands.add_parser("export", help="write an image into one file, for another host")
    export.add_argument("name", metavar="NAME", help="an image, by name or key")
    export.add_argument("file", metavar="FILE", help="a new file")
    complete(export, _export)
    bring = commands.add_parser("import", help="take an image out of such a file")
    bring.add_argument("file", metavar="FILE", help="what export wrote")
    bring.add_argument("--name", default="", metavar="N", help="call it so (default: as it was called)")
    complete(bring, _import)


def _configure_build(build: ArgumentParser) -> None:
    build.add_argument("recipe", metavar="RECIPE", help="tiny, base, python, or the path of a recipe")
    build.add_argument("--package", action="append", default=[], metavar="P", help="with this Debian package")
    build.add_argument("--requirements", default="", metavar="FILE", help="with these Python packages")
    build.add_argument("--name", default="", metavar="N", help="call it so (default: the recipe's name)")
    build.add_argument(
        "--format", default="", choices=("erofs", "squashfs"), help="of its root file system (default: erofs)"
    )
    complete(build, _build)


def _configure_download(download: ArgumentParser) -> None:
    download.add_argument("distribution", metavar="DISTRIBUTION", help="as LXC's image server has it: alpine")
    download.add_argument("release", metavar="RELEASE", help="of that distribution: 3.20")
    download.add_argument(
        "--name", default="", metavar="N", help="call it so (default: DISTRIBUTION-RELEASE, as documents ask)"
    )
    download.add_argument(
        "--template",
        default="download",
        metavar="T",
        help="LXC's template, by name or path (default: download)",
    )
    complete(download, _download)


def _download(options: Namespace) -> int:
    from mxc_ops.cli.image_progress import progress
    from vm_images.lxc_template import download_image

    with progress(as_json=options.json) as report:
        made = download_image(
            options.distribution, options.release, report, template=options.template, name=options.name
        )
    return _tell_built(made, as_json=options.json)


def _build(options: Namespace) -> int:
    from mxc_ops.cli.image_progress import progress
    from vm_images.build import build_image
    from vm_images.recipe_file import extend, load_recipe

    recipe = extend(
        load_recipe(options.recipe),
        name=options.name,
        packages=tuple(options.package),
        requirements=options.requirements,
        kind=options.format,
    )
    with progress(as_json=options.json) as report:
        built = build_image(recipe, report)
    return _tell_built(built, as_json=options.json)


def _tell_built(built: Built, *, as_json: bool) -> int:
    folder = f"{built.store}/{built.key}"
    if as_json:
        print_document({"name": built.name, "key": built.key, "path": folder, "built": built.fresh})
    else:
        print(f"{printable(built.name)}: {'built' if built.fresh else 'there already'}, {printable(folder)}")
    return 0


def _list(options: Namespace) -> int:
    from vm_images.inventory import everything

    images, broken = everything()
    if options.json:
        print_document(
            {"images": [_document(image) for image in images], "problems": [e.as_dict() for e in broken]}
        )
        return 0
    rows = [
        (
            ", ".join(image.names) or "-",
            image.key[:_SHOWN_DIGITS],
            image.manifest["format"],
            f"{_size(image) // _MIB} MiB",
            image.store,
        )
        for image in images
    ]
    print_table(("name", "key", "root", "size", "store"), rows)
    for error in broken:
        warn(str(error))
    return 0


def _document(image: Stored) -> dict[str, Any]:
    told = ("format", "memoryMib", "zygote", "commandLine", "warmUp", "inputs", "parts")
    return {"names": list(image.names), "key": image.key, "path": image.folder} | {
        name: image.manifest[name] for name in told
    }


def _size(image: Stored) -> int:
    return sum(part["size"] for part in image.manifest["parts"].values())


def _verify(options: Namespace) -> int:
    from vm_images.inventory import everything, find, verify

    images, broken = everything() if not options.names else ([find(name) for name in options.names], [])
    found = [(image, verify(image)) for image in images]
    problems = [problem for error in broken for problem in error.problems]
    problems += [problem for _, wrong in found for problem in wrong]
    if options.json:
        answers = [
            {
                "key": image.key,
                "path": image.folder,
                "intact": not wrong,
                "problems": [p.as_dict() for p in wrong],
            }
            for image, wrong in found
        ]
        print_document({"images": answers, "problems": [problem.as_dict() for problem in problems]})
        return 1 if problems else 0
    for image, wrong in found:
        title = ", ".join(image.names) or image.key[:_SHOWN_DIGITS]
        print(f"{printable(title)}: {'BROKEN' if wrong else 'intact'}")
    for problem in problems:
        print(f"  {printable(str(problem))}")
    return 1 if problems else 0


def _remove(options: Namespace) -> int:
    from vm_images.inventory import remove

    removed = [key for name in options.names for key in remove(name)]
    if options.json:
        print_document({"removed": removed})
    else:
        for name in options.names:
            print(f"{printable(name)}: removed")
    return 0


def _gc(options: Namespace) -> int:
    from vm_images.inventory import collect_garbage

    removed, used, going_on = collect_garbage()
    if options.json:
        print_document({"removed": removed, "inUse": used, "building": going_on})
        return 0
    print(f"removed {len(removed)}, kept {len(used)} in use and {len(going_on)} being built")
    return 0


def _export(options: Namespace) -> int:
    from pathlib import Path

    from vm_images.archive import export_image

    size = export_image(options.name, Path(options.file))
    if options.json:
        print_document({"name": options.name, "file": options.file, "bytes": size})
    else:
        print(f"{printable(options.file)}: {size // _MIB} MiB")
    return 0


def _import(options: Namespace) -> int:
    from pathlib import Path

    from vm_images.archive import import_image

    name, found = import_image(Path(options.file), options.name)
    if options.json:
        print_document({"name": name, "key": found.key, "path": found.folder})
    else:
        print(f"{printable(name)}: {printable(found.folder)}")
    return 0
