"""`mxc-ops image`: build, fetch, list, verify, remove and move the images that sandboxes start from.

Images of machines and of containers lie in two stores, and are one list here. A name is that of an image of
machines first; a container's can always be told from it, by its whole reference.

Exit codes: 0 done; 1 it failed, or something that was verified is broken, or removal was refused.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from mxc_ops.cli.image_table import SHOWN_DIGITS
from mxc_ops.cli.output import Parser, complete, print_document, print_table, warn
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from backends.errors import BackendUnavailable
    from vm_images.build import Built
    from vm_images.oci.importing import Terms
    from vm_images.oci.store import StoredContainer

_MIB = 1 << 20


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
    bring = commands.add_parser(
        "import", help="take an image out of such a file, or out of a container archive"
    )
    bring.add_argument(
        "file",
        metavar="FILE",
        help="what export wrote, or docker save; an OCI archive; a root file system's tar",
    )
    bring.add_argument("--name", default="", metavar="N", help="call it so (default: as it is called there)")
    _add_terms(bring)
    complete(bring, _import)
    pull = commands.add_parser("pull", help="fetch a container's image from its registry")
    pull.add_argument("reference", metavar="REFERENCE", help="as alpine:latest, or host/name@sha256:…")
    _add_terms(pull)
    complete(pull, _pull)


def _add_terms(command: ArgumentParser) -> None:
    command.add_argument(
        "--keep-set-id",
        action="store_true",
        help="of a container: keep set-uid and set-gid bits of files",
    )
    command.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=N",
        help="of a container: another bound than usual, such as unpacked-bytes=17179869184",
    )


def _configure_build(build: ArgumentParser) -> None:
    build.add_argument("recipe", metavar="RECIPE", help="of ours (base, python), or the path of a recipe")
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
    from mxc_ops.cli import image_table
    from vm_images.inventory import everything
    from vm_images.oci import inventory as containers

    images, broken = everything()
    others, spoilt = containers.everything()
    if options.json:
        print_document(image_table.document(images, others, [*broken, *spoilt]))
        return 0
    print_table(image_table.COLUMNS, image_table.rows(images, others))
    for error in (*broken, *spoilt):
        warn(str(error))
    return 0


def _verify(options: Namespace) -> int:
    from vm_images.inventory import everything, find, is_known, verify
    from vm_images.oci import inventory as containers
    from vm_images.oci.store import find_container

    if options.names:
        broken: list[BackendUnavailable] = []
        images = [
            find_container(name).stored if not is_known(name) and containers.is_known(name) else find(name)
            for name in options.names
        ]
        images = [containers.named_in_store(image) for image in images]
    else:
        (first, wrong), (second, spoilt) = everything(), containers.everything()
        images, broken = [*first, *second], [*wrong, *spoilt]
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
        title = ", ".join(image.names) or image.key[:SHOWN_DIGITS]
        print(f"{printable(title)}: {'BROKEN' if wrong else 'intact'}")
    for problem in problems:
        print(f"  {printable(str(problem))}")
    return 1 if problems else 0


def _remove(options: Namespace) -> int:
    from vm_images.inventory import is_known, remove
    from vm_images.oci import inventory as containers

    removed = [
        key
        for name in options.names
        for key in (containers.remove if not is_known(name) and containers.is_known(name) else remove)(name)
    ]
    if options.json:
        print_document({"removed": removed})
    else:
        for name in options.names:
            print(f"{printable(name)}: removed")
    return 0


def _gc(options: Namespace) -> int:
    from vm_images.inventory import collect_garbage
    from vm_images.oci import inventory as containers

    both = zip(collect_garbage(), containers.collect_garbage(), strict=True)
    removed, used, going_on = ([*one, *other] for one, other in both)
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

    from vm_images.archive import import_image, is_exported

    if not is_exported(Path(options.file)):
        return _import_container(options)
    name, found = import_image(Path(options.file), options.name)
    if options.json:
        print_document({"name": name, "key": found.key, "path": found.folder})
    else:
        print(f"{printable(name)}: {printable(found.folder)}")
    return 0


def _import_container(options: Namespace) -> int:
    from pathlib import Path

    from mxc_ops.cli.image_progress import progress
    from vm_images.oci.importing import import_archive

    with progress(as_json=options.json) as report:
        found = import_archive(
            Path(options.file), options.name, must_be_named=True, terms=_terms(options), report=report
        )
    return _tell_container(found, as_json=options.json)


def _pull(options: Namespace) -> int:
    from mxc_ops.cli.image_progress import progress
    from vm_images.oci.importing import pull

    with progress(as_json=options.json) as report:
        found = pull(options.reference, terms=_terms(options), report=report)
    return _tell_container(found, as_json=options.json)


def _terms(options: Namespace) -> Terms:
    from vm_images.oci.importing import Terms
    from vm_images.oci.limits import with_limits

    return Terms(with_limits(options.limit, "--limit"), options.keep_set_id)


def _tell_container(found: StoredContainer, *, as_json: bool) -> int:
    manifest = found.stored.manifest
    if as_json:
        told = {"name": found.reference, "key": found.stored.key, "path": found.stored.folder}
        told |= {"imported": found.fresh, "notes": list(found.notes)}
        print_document(told | {name: manifest[name] for name in ("source", "digest", "configDigest")})
        return 0
    state = "imported" if found.fresh else "there already"
    print(f"{printable(found.reference)}: {state}, {printable(found.stored.folder)}")
    for note in found.notes:
        warn(note)
    return 0
