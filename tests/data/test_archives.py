"""Archives: what is extracted, and what an archive cannot do."""

import gzip
import io
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fdl.core.errors import InputError
from fdl.data.archives import Limits, extract, extract_once
from tests.data.published_formats import rar

FILES = {"set/a.bin": b"a" * 5000, "set/deep/b.bin": bytes(range(256)), "c (1).png": b""}
MIB = 1 << 20
NEEDS_BSDTAR = pytest.mark.skipif(not shutil.which("bsdtar"), reason="no program here opens RAR archives")


def member(name: str, kind: bytes = tarfile.REGTYPE, **about: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in about.items():
        setattr(info, key, value)
    return info


def tar(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], mode: Any = "w:gz", format: int = 1) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:
        for entry in members:
            info, content = entry if isinstance(entry, tuple) else (entry, b"")
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: Any = "w:gz") -> bytes:
    return tar(*((member(name), content) for name, content in files.items()), mode=mode)


def zip_of(files: dict[str, bytes], *, kind: int = stat.S_IFREG, flags: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, with whatever the constructor took out
            info.external_attr = (kind | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    packed = bytearray(buffer.getvalue())
    if flags:
        packed[6] |= flags
        packed[packed.index(b"PK\x01\x02") + 8] |= flags
    return bytes(packed)


def unpacked(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.tar.gz", tar_of(FILES)),
        ("set.tgz", tar(member("set", tarfile.DIRTYPE), *((member(name), FILES[name]) for name in FILES))),
        ("set.tar", tar_of(FILES, "w")),
        ("SET.ZIP", zip_of(FILES)),
        pytest.param("set.rar", rar(FILES), marks=NEEDS_BSDTAR),
    ],
)
def test_files_are_extracted_as_they_are(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    extract(tmp_path / name, tmp_path / "out")
    assert unpacked(tmp_path / "out") == FILES


def test_modes_owners_and_times_of_an_archive_are_not_taken(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar((member("run", mode=0o4777, uid=12345, mtime=1), b"x"), mode="w"))
    extract(tmp_path / "a.tar", tmp_path / "out")
    about = (tmp_path / "out/run").stat()
    assert not about.st_mode & 0o7111
    assert about.st_mtime > 1


def tar_with_huge_header() -> bytes:
    """A pax header said to be 4 MiB long, which packs to nothing."""
    return tar((member("a", pax_headers={"comment": "x" * (4 * MIB)}), b""), format=tarfile.PAX_FORMAT)


def zip_that_lies() -> bytes:
    """A member whose directory says 10 bytes and which unpacks to 5,000."""
    packed = bytearray(zip_of({"a.bin": b"a" * 5000}))
    for place in (22, packed.index(b"PK\x01\x02") + 24):
        packed[place : place + 4] = struct.pack("<I", 10)
    return bytes(packed)


ATTACKS = {
    "tar: parent folder": ("a.tar", tar((member("../evil"), b"x"), mode="w")),
    "tar: parent folder inside": ("a.tar", tar((member("set/../../evil"), b"x"), mode="w")),
    "tar: absolute": ("a.tar.gz", tar((member("/tmp/fdl-evil"), b"x"))),
    "tar: symbolic link": ("a.tar.gz", tar(member("a", tarfile.SYMTYPE, linkname="/etc/passwd"))),
    "tar: link to itself": ("a.tar.gz", tar(member("a", tarfile.SYMTYPE, linkname="a"))),
    "tar: link, then a file": ("a.tar.gz", tar(member("a", tarfile.SYMTYPE, linkname=".."), (member("a/b"), b"x"))),
    "tar: hard link": ("a.tar.gz", tar((member("b"), b"x"), member("a", tarfile.LNKTYPE, linkname="b"))),
    "tar: hard link outside": ("a.tar.gz", tar(member("a", tarfile.LNKTYPE, linkname="../../secret"))),
    "tar: character device": ("a.tar.gz", tar(member("a", tarfile.CHRTYPE, devmajor=1, devminor=5))),
    "tar: block device": ("a.tar.gz", tar(member("a", tarfile.BLKTYPE))),
    "tar: fifo": ("a.tar.gz", tar(member("a", tarfile.FIFOTYPE))),
    "tar: unknown kind": ("a.tar.gz", tar(member("../evil", b"Z"))),
    "tar: twice": ("a.tar.gz", tar((member("a"), b"x"), (member("a"), b"y"))),
    "tar: twice but for case": ("a.tar.gz", tar((member("Pa_1"), b"x"), (member("PA_1"), b"y"))),
    "tar: twice but for a dot": ("a.tar.gz", tar((member("a"), b"x"), (member("./a"), b"y"))),
    "tar: file and folder": ("a.tar.gz", tar((member("a"), b"x"), (member("a/b"), b"y"))),
    "tar: name too long": ("a.tar.gz", tar((member("x" * 300), b"x"), format=tarfile.PAX_FORMAT)),
    "tar: line end in a name": ("a.tar.gz", tar((member("a\nb"), b"x"))),
    "tar: backslash": ("a.tar.gz", tar((member("..\\evil"), b"x"))),
    "tar: drive": ("a.tar.gz", tar((member("C:/evil"), b"x"))),
    "tar: sparse": ("a.tar.gz", tar(member("a.bin", tarfile.GNUTYPE_SPARSE))),
    "tar: bomb": ("a.tar.gz", tar_of({"zeros": bytes(3 * MIB)})),
    "tar: bomb of many files": ("a.tar.gz", tar_of({f"{number}": bytes(MIB // 4) for number in range(9)})),
    "tar: too many files": ("a.tar.gz", tar_of({f"{number}": b"" for number in range(60)})),
    "tar: too many folders": ("a.tar.gz", tar(*(member(f"{number}", tarfile.DIRTYPE) for number in range(60)))),
    "tar: huge header": ("a.tar.gz", tar_with_huge_header()),
    "tar: cut short": ("a.tar.gz", tar_of({"a.bin": bytes(range(256)) * 40, "b": b"x"})[:200]),
    "tar: wrong check sum": ("a.tar.gz", tar_of(FILES)[:-8] + bytes(8)),
    "tar: bomb behind its end": ("a.tar.gz", gzip.compress(tar_of({"a": b"x"}, "w") + bytes(9 * MIB))),
    "tar: nothing in it": ("a.tar.gz", tar()),
    "tar: nothing at all": ("a.tar.gz", b""),
    "tar: a web page": ("a.tar.gz", b"<!DOCTYPE html><title>Sign in</title>" * 40),
    "zip: parent folder": ("a.zip", zip_of({"../../evil": b"x"})),
    "zip: absolute": ("a.zip", zip_of({"/tmp/fdl-evil": b"x"})),
    "zip: backslash": ("a.zip", zip_of({"..\\evil": b"x"})),
    "zip: drive": ("a.zip", zip_of({"C:evil": b"x"})),
    "zip: symbolic link": ("a.zip", zip_of({"a": b"/etc/passwd"}, kind=stat.S_IFLNK)),
    "zip: device": ("a.zip", zip_of({"a": b""}, kind=stat.S_IFBLK)),
    "zip: fifo": ("a.zip", zip_of({"a": b""}, kind=stat.S_IFIFO)),
    "zip: encrypted": ("a.zip", zip_of({"a": b"x" * 40}, flags=1)),
    "zip: twice but for case": ("a.zip", zip_of({"a": b"x", "A": b"y"})),
    "zip: bomb": ("a.zip", zip_of({"zeros": bytes(3 * MIB)})),
    "zip: bomb of many files": ("a.zip", zip_of({f"{number}": bytes(MIB // 4) for number in range(9)})),
    "zip: too many files": ("a.zip", zip_of({f"{number}": b"" for number in range(60)})),
    "zip: a size that is not true": ("a.zip", zip_that_lies()),
    "zip: no directory": ("a.zip", zip_of(FILES)[:-30]),
    "zip: damaged content": ("a.zip", zip_of({"a": bytes(range(256))}).replace(bytes(range(99)), bytes(99))),
    "zip: a web page": ("a.zip", b"<!DOCTYPE html>" * 40),
    "rar: a web page": ("a.rar", b"<!DOCTYPE html>" * 40),
    "rar: cut short": ("a.rar", rar({"a": bytes(range(256)) * 99})[:900]),
    "rar: damaged header": ("a.rar", rar({"name.bin": b"x" * 400}).replace(b"name.bin", b"game.bin")),
    "rar: parent folder": ("a.rar", rar({"../evil": b"x"})),
    "rar: absolute": ("a.rar", rar({"/tmp/fdl-evil": b"x"})),
}
SMALL = Limits(members=50, total=64 * MIB, floor=2 * MIB)


def refused(archive: Path, limits: Limits) -> str:
    """The one line that an archive is refused with; nothing is left of it, inside its folder or outside."""
    with pytest.raises(InputError) as error:
        extract_once(archive, archive.parent / ".extracted" / archive.name, limits)
    message = str(error.value)
    assert message.startswith(f"{archive}: ")
    assert "\n" not in message
    assert "; " in message
    assert len(message) < 400 + len(str(archive))
    assert list(archive.parent.iterdir()) == [archive]
    return message


@pytest.mark.parametrize(("name", "content"), ATTACKS.values(), ids=ATTACKS)
def test_malicious_and_damaged_archives_are_refused_in_one_line(tmp_path, name, content):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(content)
    refused(tmp_path / "raw" / name, SMALL)
    assert list(tmp_path.iterdir()) == [tmp_path / "raw"]


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        ("tar: link, then a file", "'a' is a link"),
        ("tar: fifo", "'a' is a device or another special file"),
        ("zip: symbolic link", "'a' is a link"),
        ("tar: parent folder", "holds the unsafe file name '../evil'"),
        ("zip: absolute", "holds the unsafe file name '/tmp/fdl-evil'"),
        ("tar: bomb", "'zeros' unpacks to more than an archive of this size may hold"),
        ("zip: bomb of many files", "unpacks to more than an archive of this size may hold"),
        ("zip: too many files", "holds more than 50 files"),
        ("tar: too many folders", "holds more than 50 files"),
        ("tar: huge header", "a header is too long"),
        ("zip: encrypted", "'a' is encrypted"),
        ("tar: twice but for case", "holds 'PA_1' twice"),
        ("tar: twice", "holds 'a' twice"),
        ("tar: file and folder", "holds 'a/b' twice"),
    ],
)
def test_the_reason_is_said(tmp_path, attack, problem):
    name, content = ATTACKS[attack]
    (tmp_path / name).write_bytes(content)
    assert problem in refused(tmp_path / name, SMALL)


def test_well_packed_images_are_no_bomb(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_of({"zeros": bytes(range(256)) * 8192}))
    extract_once(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/zeros").stat().st_size == 2 * MIB


def program(folder: Path, name: str, script: str) -> None:
    """A program that is found instead of the one installed."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    (folder / name).chmod(0o755)


def fake_bsdtar(folder: Path, stream: bytes, after: str = "") -> None:
    program(folder, "bsdtar", f"assert sys.argv[1:3] == ['-cf', '-']\nsys.stdout.buffer.write({stream!r})\n{after}")


def fake_7zip(folder: Path, listing: str, contents: bytes) -> None:
    answer = f"{listing.encode()!r} if sys.argv[1] == 'l' else {contents!r}"
    program(folder, "7zz", f"sys.stdout.buffer.write({answer})")


@pytest.fixture
def only_programs(tmp_path, monkeypatch) -> Path:
    """The one folder that programs are looked for in."""
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.rar").write_bytes(rar(FILES))
    return Path(tmp_path / "programs")


def test_without_a_program_for_rar_the_user_is_told(tmp_path, only_programs):
    assert "install bsdtar (package libarchive-tools) or 7-Zip" in refused(tmp_path / "raw/a.rar", SMALL)


def test_a_rar_archive_goes_through_bsdtar(tmp_path, only_programs):
    fake_bsdtar(only_programs, tar_of(FILES, "w"))
    assert unpacked(extract_once(tmp_path / "raw/a.rar", tmp_path / "out")).keys() == {*FILES, ".archive"}


@pytest.mark.parametrize(
    ("stream", "after", "problem"),
    [
        (tar(member("a", tarfile.SYMTYPE, linkname="/"), mode="w"), "", "'a' is a link"),
        (tar((member("../evil"), b"x"), mode="w"), "", "unsafe file name"),
        (tar_of({"zeros": bytes(3 * MIB)}, "w"), "", "unpacks to more"),
        (tar_of({"zeros": bytes(99)}, "w")[:600], "", "not a readable archive"),
        (tar_of(FILES, "w"), "sys.exit('a.rar: checksum error')", "not a readable archive (a.rar: checksum error)"),
    ],
)
def test_what_bsdtar_says_is_not_trusted(tmp_path, only_programs, stream, after, problem):
    fake_bsdtar(only_programs, stream, after)
    assert problem in refused(tmp_path / "raw/a.rar", SMALL)


def listing(*names: str, more: str = "") -> str:
    return "\n".join(f"Path = {name}\nSize = {len(FILES.get(name, b'x'))}\nAttributes = A\n{more}" for name in names)


def test_a_rar_archive_goes_through_7zip(tmp_path, only_programs):
    folder = "Path = set\nSize = 0\nAttributes = D\n\n"
    fake_7zip(only_programs, folder + listing(*FILES), b"".join(FILES.values()))
    extract_once(tmp_path / "raw/a.rar", tmp_path / "out")
    assert unpacked(tmp_path / "out") == FILES | {".archive": (tmp_path / "out/.archive").read_bytes()}


@pytest.mark.parametrize(
    ("names", "contents", "problem"),
    [
        (listing("../evil"), b"x", "unsafe file name"),
        (listing("a", more="Symbolic Link = /etc\n"), b"x", "'a' is a link"),
        (listing("a"), b"xy", "its list of files does not fit its contents"),
        (listing("a"), b"", "ends early"),
        ("Path = a\n", b"", "not a readable archive"),
        ("", b"", "not a readable archive"),
    ],
)
def test_what_7zip_says_is_not_trusted(tmp_path, only_programs, names, contents, problem):
    fake_7zip(only_programs, names, contents)
    assert problem in refused(tmp_path / "raw/a.rar", SMALL)


def test_an_archive_that_cannot_be_written_out_is_no_damaged_archive(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zip_of(FILES))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(InputError, match=r"cannot be extracted .*No space left on device.*make room"):
        extract(tmp_path / "a.zip", tmp_path / "out")
