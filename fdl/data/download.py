"""Fetches the published files of a dataset, and vouches that they are what was published or first fetched.

`data/raw/official/<dataset>/` holds the files under their published names, `TERMS.txt`, the ledger
`.hashes.json` (SHA-256 of every file, enforced ever after) and, while a transfer lasts, `.partial/`. A
broken transfer goes on where it ended; a file is moved to its name once its hash is checked, and a set
of files once all of them are there. Where no hash was published, the ledger takes a file's own once
`fdl.data.recognise` has read it. Whatever a human puts there is taken as well: the files under their
published names, or any layout that `fdl.data.formats` reads.

Environment: FDL_MIRROR, an address at which every dataset is looked for first (`<FDL_MIRROR>/<dataset>/<file>`;
where a host would list the files, `<FDL_MIRROR>/<dataset>/files.json` holds its list); FDL_OFFLINE, if it is not 0,
false, no or off, nothing is fetched. A Kaggle token is read as Kaggle's own client reads it
(`fdl.data.http.kaggle_token`) and goes to Kaggle only.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from filelock import Timeout

from fdl.core import files, layout
from fdl.core.addresses import masked
from fdl.core.console import Say, plain
from fdl.core.errors import InputError
from fdl.core.places import File, Place
from fdl.core.protocol import DATASETS
from fdl.data import http, recognise, sources
from fdl.data.folder_lock import folder_lock

LEDGER, PARTIAL, TERMS = ".hashes.json", ".partial", "TERMS.txt"
LISTING = "files.json"  # on a mirror: the list of a dataset's files, as their host gives it


@dataclass
class Ledger:
    """What is known of the files in one dataset's folder."""

    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by path below the folder; never forgotten
    complete: list[str] = field(default_factory=list)  # the names that were downloaded as one set


def folder_of(dataset: str) -> Path:
    """Where the official files of a dataset lie."""
    return layout.RAW / "official" / dataset


def fetch(dataset: str, *, offline: bool | None = None, say: Say = plain) -> Path:
    """The folder with a dataset's official files: downloaded if they are not there, and verified.

    Args:
        offline: never use the network; None: as the environment's FDL_OFFLINE says.

    Raises:
        InputError: the files cannot be fetched by a program, or are not what was published or recorded.
    """
    folder = folder_of(dataset)
    offline = _offline() if offline is None else offline
    with _alone(folder, say):
        _put_in_place(folder)
        if not is_complete(dataset):
            if offline:
                raise InputError(f"{folder}: not all files are there and no network may be used; {_by_hand(dataset)}")
            _download(dataset, folder, say)
        _verify(dataset, folder, say)
    return folder


def verify(dataset: str, *, say: Say = plain) -> int:
    """Hash all official files of a dataset; return their number.

    Raises:
        InputError: there are none, or one is not what was published or recorded.
    """
    folder = folder_of(dataset)
    if not is_complete(dataset):
        raise InputError(f"{folder}: not all files are there; run `python -m fdl data download {dataset}`")
    with _alone(folder, say):
        return _verify(dataset, folder, say)


def is_complete(dataset: str) -> bool:
    """Whether all files are there: those of one place, those downloaded as one set, or a human's own arrangement."""
    folder = folder_of(dataset)
    recorded = set(_read(folder).complete)
    published = [{file.name for file in place.files} for place in sources.SOURCES[dataset].places]
    present = {path.name for path in folder.iterdir() if _counts(path)} if folder.is_dir() else set()
    if any(names and names <= present for names in [*published, recorded]):
        return True
    return bool(present) and not present & recorded.union(*published)


def held_bytes(dataset: str) -> int:
    """Size of the official files on disk."""
    return sum(path.stat().st_size for path in _files(folder_of(dataset)))


def _offline() -> bool:
    return os.environ.get("FDL_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Held by one process at a time; a second one waits and then finds the work done."""
    lock = folder_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{folder}: another process works on it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(dataset: str, folder: Path, say: Say) -> None:
    """Fetch all files of the first place that has them."""
    entry, title = sources.SOURCES[dataset], DATASETS[dataset].title
    about = f"{title}: {entry.images:,} images ({entry.formats}; size: {entry.download}). {entry.citation}"
    terms = f"{about}\nTerms: {entry.terms}"
    say(terms)
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / TERMS, f"{terms}\n".encode())
    # All that the mirror may hold before any other host is asked: it may be the only one in reach.
    mirror = os.environ.get("FDL_MIRROR")
    mirrored = [(place, mirror) for place in entry.places if place.host != "page"] if mirror else []
    failures = []
    for place, base in [*mirrored, *((place, None) for place in entry.places)]:
        where = f"{masked(base)} ({place.wanted})" if base else place.name
        try:
            fetched = _fetch_place(dataset, place, base, folder, say)
        except http.Unavailable as reason:
            say(f"{dataset}: {where}: {reason}")
            failures.append(f"{where}: {reason}")
            continue
        _record(folder, {file.name for file in fetched})
        _put_in_place(folder)
        return
    raise InputError(f"{dataset}: cannot be downloaded ({'; '.join(failures)}); {_by_hand(dataset)}")


def _fetch_place(dataset: str, place: Place, mirror: str | None, folder: Path, say: Say) -> tuple[File, ...]:
    """All files of one place into `.partial/`: from the place itself, or from a mirror of it."""
    if place.host == "page":
        raise http.Unavailable("only a human can fetch there")
    base = f"{mirror.rstrip('/')}/{dataset}/" if mirror else None
    files = place.files or http.listed(f"{base}{LISTING}" if base else place.listing(), say)
    for file in files:
        if (folder / file.name).exists():
            continue
        recorded = _read(folder).files.get(file.name)
        note = f", of the file first seen; if the new one is meant, delete the line {file.name!r} in {folder / LEDGER}"
        wanted = http.Wanted(
            folder / PARTIAL / file.name,
            file.size,
            file.hash or (f"sha256:{recorded}" if recorded else None),
            "" if file.hash else note,
        )
        if base:
            http.fetch(f"{base}{quote(file.name)}", wanted, say)
        else:
            token = http.kaggle_token() if place.host == "kaggle" else None
            http.fetch(place.address(file), wanted, say, token=token)
    return files


def _by_hand(dataset: str) -> str:
    """What a human can do."""
    ways = " or ".join(f"{place.wanted} from {place.page}" for place in sources.SOURCES[dataset].places)
    return f"put {ways} into {folder_of(dataset)} and run the same command again"


def _record(folder: Path, names: set[str]) -> None:
    """Write down which files are the dataset, before the first of them is moved to its place."""
    ledger = _read(folder)
    ledger.complete = sorted(names)
    _write(folder, ledger)


def _put_in_place(folder: Path) -> None:
    """Move a complete set of files out of `.partial/`; what a killed process left undone is done by the next."""
    names = _read(folder).complete
    for name in names:
        if (folder / PARTIAL / name).exists():
            os.replace(folder / PARTIAL / name, folder / name)
    if names and all((folder / name).exists() for name in names):
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _verify(dataset: str, folder: Path, say: Say) -> int:
    """Compare every file with its published hash and with the ledger; record the files that are new."""
    ledger = _read(folder)
    published = {file.name: file for place in sources.SOURCES[dataset].places for file in place.files}
    paths = _files(folder)
    for path in paths:
        name = path.relative_to(folder).as_posix()
        sha256 = files.file_hash(path)
        known = published.get(name)
        if name not in ledger.files and not (known and known.hash):
            _recognise(path)
        if known and known.hash and not http.has_hash(path, known.hash, sha256=sha256):
            raise InputError(
                f"{path}: is not the published file ({known.hash} is); delete it and download it again, "
                "or give it another name if you mean to use your own"
            )
        if ledger.files.setdefault(name, sha256) != sha256:
            raise InputError(
                f"{path}: differs from the file first seen (SHA-256 {ledger.files[name]} in {folder / LEDGER}); "
                f"put that one back, or delete its line {name!r} there if the new one is meant"
            )
    if ledger != _read(folder):
        _write(folder, ledger)
    say(f"{dataset}: {len(paths):,} file{'s' * (len(paths) != 1)} verified in {folder}")
    return len(paths)


def _recognise(path: Path) -> None:
    try:
        recognise.check(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}; delete it, or put the right file in its place") from None


def _files(folder: Path) -> list[Path]:
    """All files of a dataset, without what we keep beside them."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and all(_counts(part) for part in (path, *path.parents) if part.is_relative_to(folder))
    )


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != TERMS


def _read(folder: Path) -> Ledger:
    path = folder / LEDGER
    try:
        return Ledger(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Ledger()
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); restore it, or delete it to record all files anew") from None


def _write(folder: Path, ledger: Ledger) -> None:
    files.write_atomically(folder / LEDGER, files.to_json({"complete": ledger.complete, "files": ledger.files}))
