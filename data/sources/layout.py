"""The layout of a folder or archive of images: its parts, classes and groups."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from data.config import DataConfig
from data.errors import DataError
from data.ignore import Ignored, is_litter
from data.store import MAX_FILE_BYTES, PARTS, Entry, Part, Store, name_of, part_of, top_folder
from data.text import canonical, counted, is_printable, some

LAYOUT: Final = (
    "it must hold train/CLASS/* or CLASS/*, with one folder per class, and may hold val/CLASS/*, test/CLASS/*"
)

Classes = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a store: class -> paths in each part, all sorted."""

    train: Classes
    validation: Classes
    test: Classes
    groups: Mapping[str, str]
    """Path -> group; empty without groups."""

    unreadable: Mapping[str, DataError]
    """Images that are not read, and why."""

    notes: tuple[str, ...]

    def paths(self) -> list[str]:
        """The paths of all images."""
        return [path for part in (self.train, self.validation, self.test) for paths in part.values() for path in paths]


@dataclass(slots=True)
class _Parts:
    """The entries below the top folder, sorted into parts."""

    images: dict[Part, Classes] = field(default_factory=lambda: {"train": {}, "validation": {}, "test": {}})
    loose: dict[Part, list[str]] = field(default_factory=lambda: {"train": [], "validation": [], "test": []})
    """Files of a part outside of class folders."""

    folders: dict[Part, str] = field(default_factory=dict)
    """The folder of each part; none if every folder is a class."""

    others: set[str] = field(default_factory=set)
    """Names of ignored entries."""

    def place(self, entry: Entry, names: list[str]) -> None:
        """Add an entry, by the names of its path below the top folder."""
        part = part_of(names[0]) if self.folders else "train"
        if part is None or (self.folders and len(names) == 1 and not entry.is_folder):
            self.others.add(names[0])
            return
        names = names[1:] if self.folders else names
        if len(names) > 1 or (names and entry.is_folder):
            files = self.images[part].setdefault(canonical(names[0]), [])
            if not entry.is_folder:
                files.append(entry.path)
        elif names and self.folders:
            self.loose[part].append(entry.path)
        elif names:
            self.others.add(names[0])


def list_images(store: Store, config: DataConfig) -> Listing:
    """Find the classes, images and groups of a store.

    Args:
        store: a directory or an archive.
        config: the table [data], for the validation images and groups.

    Raises:
        DataError: the layout is wrong.
    """
    entries = list(store.entries())
    top = top_folder(lambda folder: _children(entries, folder))
    ignored = Ignored()
    parts = _sort(store.path, entries, top, ignored)
    _check_folders(store.path, parts)
    notes = [*store.notes, *_unlabelled(parts), *_unused_validation(store.path, parts, config)]
    _check_classes(store.path, parts)
    train, validation, test = (
        {name: sorted(paths) for name, paths in sorted(parts.images[part].items())} for part in PARTS
    )
    if parts.others:
        read = [f"{folder}/" for folder in parts.folders.values()] or ["folders with images"]
        notes.append(f"not read: {some(parts.others)}; read: {', '.join(read)}")
    if sentence := ignored.sentence():
        notes.append(sentence)
    for part, classes in (("validation", validation), ("test", test)):
        notes += [f"class '{name}' has no {part} images" for name in train if classes and name not in classes]
    depth = top.count("/") + bool(parts.folders)
    groups = _groups(store.path, (train, validation, test), depth=depth, rule=config.groups)
    if groups:
        origin = "their folder below the class" if config.groups in (None, "folder") else "the name of the file"
        notes.append(f"images of one group, by {origin}, stay together in a split ([data] groups)")
        notes += _shared_groups(groups, train, {"validation": validation, "test": test})
    return Listing(
        train=train,
        validation=validation,
        test=test,
        groups=groups,
        unreadable={entry.path: _too_large(entry) for entry in entries if entry.size > MAX_FILE_BYTES},
        notes=tuple(notes),
    )


def _children(entries: Sequence[Entry], folder: str) -> list[Entry]:
    """The entries directly in a folder; archives need not list the folders themselves."""
    names: dict[str, bool] = {}
    for entry in entries:
        if entry.path.startswith(folder):
            name, slash, _ = entry.path[len(folder) :].partition("/")
            names[name] = names.get(name, False) or bool(slash) or entry.is_folder
    return [Entry(f"{folder}{name}", is_folder) for name, is_folder in names.items() if name]


def _sort(path: Path, entries: Sequence[Entry], top: str, ignored: Ignored) -> _Parts:
    """Sort the entries by part and class. Without folders of parts, every folder is a class."""
    first = _children(entries, top)
    folders = [name_of(entry) for entry in first if entry.is_folder and not is_litter(name_of(entry))]
    if not folders:
        raise DataError(f"{path} has no folder of images, only {some(map(name_of, first)) or 'nothing'}; {LAYOUT}")
    parts = _Parts()
    for name in folders:
        if (part := part_of(name)) is None:
            continue
        if part in parts.folders:
            raise DataError(f"{path} has '{parts.folders[part]}' and '{name}' for the {part} images; join them")
        parts.folders[part] = name
    if parts.folders and "train" not in parts.folders:
        raise DataError(f"{path} has no folder train/, only {some(folders)}; {LAYOUT}")
    for entry in entries:
        inner = entry.path[len(top) :]
        if entry.path.startswith(top) and inner and not ignored.add(inner, is_folder=entry.is_folder):
            parts.place(entry, inner.split("/"))
    if not parts.folders:
        _check_inner_parts(path, parts, top)
        _drop_folders_without_images(path, parts)
    return parts


def _check_inner_parts(path: Path, parts: _Parts, top: str) -> None:
    """Refuse CLASS/train/*: the test images of such classes would be trained on."""
    for name, files in parts.images["train"].items():
        inner = {file[len(top) :].split("/")[1] for file in files if file[len(top) :].count("/") > 1}
        if "train" in map(part_of, inner):
            raise DataError(f"{path}: the parts of class '{name}' lie inside of it ({some(inner)}); {LAYOUT}")


def _drop_folders_without_images(path: Path, parts: _Parts) -> None:
    classes = parts.images["train"]
    parts.others |= {name for name, files in classes.items() if not files}
    parts.images["train"] = {name: files for name, files in classes.items() if files}
    if not parts.images["train"]:
        raise DataError(f"{path} has no images in folders, only {some(parts.others)}; {LAYOUT}")


def _unlabelled(parts: _Parts) -> list[str]:
    """Take test images out that have no labels: those outside of class folders, or in one folder that is no class."""
    classes, loose = parts.images["test"], parts.loose["test"]
    if "test" not in parts.folders or not (loose or classes):
        return []
    name = parts.folders["test"]
    if not classes:
        parts.loose["test"] = []
        return [f"{counted(len(loose), 'image')} in {name}/ without labels, as in no class folder: ignored"]
    if len(classes) == 1 and not loose and not set(classes) & set(parts.images["train"]):
        (folder,) = classes
        count = len(classes.pop(folder))
        return [f"{counted(count, 'image')} in {name}/{folder} without labels, as '{folder}' is no class: ignored"]
    return []


def _unused_validation(path: Path, parts: _Parts, config: DataConfig) -> list[str]:
    """Take the images of val/ out if a number of validation images is set."""
    folder = parts.folders.get("validation")
    if config.validation == "folder" and folder is None:
        raise DataError(f'{path}: [data] validation = "folder", but there is no folder val/; add it, or leave it out')
    if folder is None or config.validation in (None, "folder"):
        return []
    parts.images["validation"], parts.loose["validation"] = {}, []
    return [f'{folder}/ is not used, as [data] validation is {config.validation}; "folder" uses it']


def _check_classes(path: Path, parts: _Parts) -> None:
    for part, classes in parts.images.items():
        folder = f"{parts.folders[part]}/" if part in parts.folders else ""
        if parts.loose[part]:
            raise DataError(f"{path}: '{min(parts.loose[part])}' lies outside of the class folders; {LAYOUT}")
        for name, files in classes.items():
            if not files:
                raise DataError(f"{path}: the class folder {folder}{name} is empty; add images or delete it")
            if not is_printable(name):
                raise DataError(
                    f"{path}: the class folder {folder}{name!r} has characters that cannot be printed; rename it"
                )
            if len(set(files)) < len(files):
                raise DataError(f"{path}: {folder}{name} has two files of one name; pack it again")
    train = parts.images["train"]
    if not train:
        raise DataError(f"{path}: {parts.folders['train']}/ has no class folder; {LAYOUT}")
    for part in ("validation", "test"):
        if only := sorted(set(parts.images[part]) - set(train)):
            raise DataError(
                f"{path}: class '{only[0]}' is in {parts.folders[part]}/ but not in {parts.folders['train']}/ "
                f"({some(train)}); add its training images or take it out of {parts.folders[part]}/"
            )
    if len(train) < 2:
        raise DataError(f"{path} has only one class, {some(train)}; a classifier needs at least two")


def _check_folders(path: Path, parts: _Parts) -> None:
    for part in ("validation", "test"):
        if part in parts.folders and not parts.images[part] and not parts.loose[part]:
            rest = "then a share of train/ is set aside"
            raise DataError(f"{path}: {parts.folders[part]}/ is empty; fill it, or delete it: {rest}")


def _groups(path: Path, parts: Sequence[Classes], *, depth: int, rule: str | None) -> dict[str, str]:
    """Path -> group. `depth` is the number of folders above the class folder."""
    images = [image for part in parts for paths in part.values() for image in paths]
    match rule:
        case "none":
            return {}
        case None:
            return _folder_groups(parts, depth)
        case "folder":
            if not (groups := _folder_groups(parts, depth)):
                raise DataError(
                    f'{path}: [data] groups = "folder", but the class folders have no folders; leave it out'
                )
            return groups
    pattern = re.compile(rule)
    found = {image: pattern.search(canonical(PurePosixPath(image).name)) for image in images}
    if unmatched := [image for image, match in found.items() if match is None]:
        raise DataError(
            f"{path}: [data] groups = {rule!r} finds nothing in the names of {len(unmatched)} of {len(images)} images, "
            f"such as '{unmatched[0]}'; correct the pattern"
        )
    return {image: "\0".join(match.groups("") or (match[0],)) for image, match in found.items() if match}


def _folder_groups(parts: Sequence[Classes], depth: int) -> dict[str, str]:
    """The folder below its class of each image in one. A single folder with all images of a class is no group."""
    groups: dict[str, str] = {}
    for name in {name for part in parts for name in part}:
        images = [image for part in parts for image in part.get(name, ())]
        folders = {image: canonical(below[0]) for image in images if (below := image.split("/")[depth + 1 : -1])}
        if len(set(folders.values())) > 1 or len(folders) < len(images):
            groups |= folders
    return groups


def _shared_groups(groups: Mapping[str, str], train: Classes, others: Mapping[str, Classes]) -> list[str]:
    """Sentences on groups that are in train/ and in another part."""
    trained = {groups[path] for paths in train.values() for path in paths if path in groups}
    notes = []
    for part, classes in others.items():
        shared = trained & {groups[path] for paths in classes.values() for path in paths if path in groups}
        if shared:
            notes.append(f"{counted(len(shared), 'group')} with training and {part} images: {some(shared, 3)}")
    return notes


def _too_large(entry: Entry) -> DataError:
    most = MAX_FILE_BYTES / 1e6
    return DataError(f"{entry.path}: has {entry.size / 1e6:.0f} MB, but at most {most:.0f} MB are read; take it out")
