"""Extracts downloaded archives without trusting them.

Whatever an archive says, files are only written below its own new folder, under names checked
beforehand; links, devices and anything else that is neither file nor folder are refused, and so is
an archive that unpacks to absurdly much (`Limits`). A folder appears under its name when complete.
"""

import gzip
import lzma
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from fdl.core import files
from fdl.core.errors import InputError
from fdl.data.images import first_line

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip", ".rar")
_CHUNK = 1 << 20  # bytes copied at a time
_HEADER = 1 << 20  # bytes of a tar archive's header: names, never contents
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, KeyError, IndexError, OverflowError, NotImplementedError, RuntimeError),
)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; the largest of the six datasets are far below."""

    members: int = 200_000
    total: int = 12 << 30  # bytes
    # Bytes unpacked per byte of the archive. Uncompressed images rarely pass 10, a decompression bomb is
    # beyond 1,000; small archives may unpack to `floor` bytes whatever their ratio.
    ratio: int = 200
    floor: int = 64 << 20

    def room(self, packed: int) -> int:
        """Bytes that an archive of so many bytes may unpack to."""
        return min(self.total, max(self.floor, self.ratio * packed))


LIMITS = Limits()


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that `extract` reads."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def extract_once(archive: Path, folder: Path, limits: Limits = LIMITS) -> Path:
    """Extract an archive into a folder, unless that was done and the archive has not changed since.

    Returns:
        The folder.

    Raises:
        InputError: the archive is damaged or not to be trusted; then nothing of it is left.
    """
    stamp, about = folder / ".archive", archive.stat()
    state = f"{about.st_size} {about.st_mtime_ns} {str(archive.resolve())!a}\n"
    if stamp.is_file() and stamp.read_text() == state:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.replacing(folder) as temporary:
            extract(archive, temporary, limits)
            (temporary / stamp.name).write_text(state)
    finally:
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return folder


def extract(archive: Path, folder: Path, limits: Limits = LIMITS) -> None:
    """Extract an archive into an empty folder.

    Raises:
        InputError: the archive is damaged or not to be trusted; what was extracted so far is left.
    """
    writer = _Writer(archive, folder, limits)
    name = archive.name.lower()
    try:
        if name.endswith(".zip"):
            _extract_zip(archive, writer)
        elif name.endswith(".rar"):
            _extract_rar(archive, writer)
        else:
            with (
                _unzipped(archive) as content,
                tarfile.open(fileobj=cast(IO[bytes], _Headers(content)), mode="r:") as tar,
            ):
                _extract_tar(tar, writer)
                writer.discard(content)  # gzip's check sum is at the end
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"{archive}: cannot be extracted ({first_line(error)}); make room, or check the permissions there"
            ) from None
        raise InputError(f"{archive}: not a readable archive ({first_line(error)}); download it again") from None
    if not writer.files:
        raise InputError(f"{archive}: holds no files; download it again")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Writer:
    """Writes the members of one archive, each only after its name, kind and size were checked."""

    def __init__(self, archive: Path, folder: Path, limits: Limits) -> None:
        self.archive, self.folder, self.limits = archive, folder, limits
        self.room = limits.room(archive.stat().st_size)
        self.members = 0
        # Names of what was written, as systems that ignore case see them.
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def count(self) -> None:
        """Called for every member, folders too."""
        self.members += 1
        if self.members > self.limits.members:
            raise self.refusal(f"holds more than {self.limits.members:,} files")

    def write(self, name: str, content: _Readable, size: int | None = None) -> None:
        """Write a file of `size` bytes, or of all that `content` gives."""
        path = self._checked(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while chunk := content.read(_CHUNK if size is None else min(_CHUNK, size)):
                size = None if size is None else size - len(chunk)
                self._take(len(chunk), _short(name))
                file.write(chunk)
        if size:
            raise EOFError(f"{_short(name)} ends early")

    def discard(self, content: _Readable) -> None:
        """Read what is behind the last member."""
        while chunk := content.read(_CHUNK):
            self._take(len(chunk), "the data after its files")

    def _take(self, size: int, what: str) -> None:
        # The sizes that an archive declares are not believed: what comes out is counted.
        self.room -= size
        if self.room < 0:
            raise self.refusal(f"{what} unpacks to more than an archive of this size may hold")

    def _checked(self, name: str) -> Path:
        inside = PurePosixPath(name)
        if (
            not inside.parts
            or inside.is_absolute()
            or ".." in inside.parts
            or any(mark in name for mark in "\\\0\n\r")
            or ":" in inside.parts[0]
            or any(len(part.encode(errors="replace")) > 255 for part in inside.parts)
        ):
            raise self.refusal(f"holds the unsafe file name {_short(name)}")
        own, above = str(inside).casefold(), {str(parent).casefold() for parent in inside.parents}
        if own in self.files or own in self.folders or above & self.files:
            raise self.refusal(f"holds {_short(name)} twice")
        self.files.add(own)
        self.folders |= above
        return self.folder / inside

    def refusal(self, problem: str) -> InputError:
        return InputError(f"{self.archive}: {problem}; delete the archive and download it from its publisher")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


@contextmanager
def _unzipped(archive: Path) -> Iterator[IO[bytes]]:
    """The bytes of a tar file, which gzip may have packed."""
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file


class _Headers:
    """A file whose reads are bounded: `tarfile` reads a header of any declared length into memory at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        if size > _HEADER:
            raise tarfile.ReadError("a header is too long")
        return self.file.read(size)


def _extract_tar(tar: tarfile.TarFile, writer: _Writer) -> None:
    for member in tar:
        writer.count()
        if member.isdir():
            continue
        content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            kind = "link" if member.issym() or member.islnk() else "device or another special file"
            raise writer.refusal(f"{_short(member.name)} is a {kind}")
        writer.write(member.name, content)


def _extract_zip(archive: Path, writer: _Writer) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            writer.count()
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                special = "link" if kind == stat.S_IFLNK else "device or another special file"
                raise writer.refusal(f"{_short(member.filename)} is a {special}")
            if member.flag_bits & 1:
                raise writer.refusal(f"{_short(member.filename)} is encrypted")
            if not member.is_dir():
                with packed.open(member) as content:
                    writer.write(member.filename, content)


def _extract_rar(archive: Path, writer: _Writer) -> None:
    """RAR's compression has no free reader in Python: another program unpacks to a pipe, this one writes."""
    if bsdtar := shutil.which("bsdtar"):
        convert = [bsdtar, "-cf", "-", "--format=pax", f"@{archive}"]
        with _output(convert) as pipe, tarfile.open(fileobj=pipe, mode="r|") as tar:
            _extract_tar(tar, writer)
    elif seven := shutil.which("7zz") or shutil.which("7z"):
        with _output([seven, "l", "-slt", "-ba", "-p-", "--", str(archive)]) as pipe:
            listing = pipe.read(_CHUNK * 256).decode(errors="replace")
        with _output([seven, "x", "-so", "-p-", "--", str(archive)]) as pipe:
            for name, size in _seven_zip_files(listing, writer):
                writer.write(name, pipe, size)
            if pipe.read(1):
                raise ValueError("its list of files does not fit its contents")
    else:
        raise InputError(
            f"{archive}: no program here opens RAR archives; install bsdtar (package libarchive-tools) or 7-Zip "
            f"with RAR, or extract it by hand into {archive.parent} and remove it"
        )


@contextmanager
def _output(command: list[str]) -> Iterator[IO[bytes]]:
    """What a program writes; if it fails, its first message is raised after what was read from it."""
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)
        assert process.stdout
        try:
            yield process.stdout
        except _DAMAGED as error:
            process.kill()
            raise ValueError(_first_words(messages) or first_line(error)) from None
        finally:
            process.stdout.close()
            failed = process.wait() != 0
        if failed:
            raise ValueError(_first_words(messages) or f"{command[0]} failed")


def _first_words(messages: IO[bytes]) -> str:
    messages.seek(0)
    lines = (line.strip() for line in messages.read(_CHUNK).decode(errors="replace").splitlines())
    return next((line for line in lines if line), "")


def _seven_zip_files(listing: str, writer: _Writer) -> Iterator[tuple[str, int]]:
    """Names and sizes of the files that `7z l -slt` lists, in the order in which `7z x -so` writes them."""
    for block in listing.replace("\r", "").strip().split("\n\n"):
        fields = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        writer.count()
        name, attributes = fields["Path"], fields.get("Attributes", "")
        if fields.get("Folder") == "+" or attributes.startswith("D"):
            continue
        if fields.get("Symbolic Link") or fields.get("Hard Link") or " l" in attributes:
            raise writer.refusal(f"{_short(name)} is a link")
        yield name, int(fields["Size"])
