"""Brings one file over HTTP: resumed where it broke off, tried again, checked, and only then given its name."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fdl.core.console import Say
from fdl.core.errors import InputError
from fdl.core.places import File
from fdl.data import recognise

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

WAITS = (1.0, 4.0, 15.0)  # seconds before the second, third and fourth attempt
TIMEOUT = 30.0  # seconds without a byte
LONGEST_WAIT = 60.0  # seconds that a server may ask for with Retry-After
SLOW_AFTER = 60.0  # seconds in which less than SLOWEST bytes a second arrive
SLOWEST = 5_000
_CHUNK = 1 << 18  # bytes

T = TypeVar("T")


class Unavailable(Exception):
    """A place does not give the file; another one may."""


class _TryAgain(Exception):
    """It went wrong, and may go well the next time."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


@dataclass(frozen=True)
class Token:
    """What proves to Kaggle who asks; never printed."""

    secret: str = field(repr=False)
    user: str = ""  # of a key that comes with a name

    def __call__(self, request: "PreparedRequest") -> "PreparedRequest":
        """Requests' protocol: sign a request. Requests itself drops this header on the way to another host."""
        from requests.auth import HTTPBasicAuth

        if self.user:
            signed: PreparedRequest = HTTPBasicAuth(self.user, self.secret)(request)
            return signed
        request.headers["Authorization"] = f"Bearer {self.secret}"
        return request


@dataclass(frozen=True)
class Wanted:
    """A file that is to be fetched."""

    path: Path  # beside it, `<name>.part` holds what has arrived
    size: int | None = None  # bytes
    hash: str | None = None  # "md5:…" or "sha256:…"
    note: str = ""  # said beside the hash where the file has another


def fetch(url: str, wanted: Wanted, say: Say, *, token: Token | None = None) -> None:
    """Bring a file; nothing is done if it is there with the right hash.

    Raises:
        Unavailable: the address does not give it, or gives another file.
        InputError: the disk has no room for it.
    """
    if not wanted.path.exists() or not _fits(wanted.path, wanted.hash):
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        transfer = _Transfer(wanted, say, token)
        _repeatedly(lambda: transfer.bring(url), say)
    if wanted.hash is None:
        try:
            recognise.check(wanted.path)
        except ValueError as error:
            wanted.path.unlink()
            raise Unavailable(f"gives something else than {wanted.path.name}: {error}") from None


def listed(url: str, say: Say) -> tuple[File, ...]:
    """The parquet files of a Hugging Face dataset, with the sizes and hashes that the host's list states.

    Args:
        url: address of the list, as `https://huggingface.co/api/datasets/<id>/tree/main?recursive=true` gives it.

    Raises:
        Unavailable: there is no list, or it names no parquet files or two of the same name.
    """
    import requests

    def attempt() -> list[File]:
        response = requests.get(url, timeout=TIMEOUT)
        _check_status(response)
        try:
            return [_file(item) for item in response.json() if item["path"].endswith(".parquet")]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Unavailable("its list of files cannot be read") from None

    files = _repeatedly(attempt, say)
    if not files or len({file.name for file in files}) < len(files):
        raise Unavailable("it lists no single set of parquet files")
    return tuple(files)


def _file(item: Any) -> File:
    """One line of a list of files."""
    path, size, hash_ = item["path"], item["size"], item["lfs"]["oid"]
    if type(size) is not int or size <= 0 or not re.fullmatch(r"[0-9a-f]{64}", hash_):
        raise ValueError("no size and hash")
    return File(Path(path).name, size, f"sha256:{hash_}", path)


def kaggle_token() -> Token:
    """What Kaggle's own client would send.

    KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, or the file access_token or kaggle.json in
    $KAGGLE_CONFIG_DIR or ~/.kaggle.

    Raises:
        Unavailable: there is none.
    """
    if secret := os.environ.get("KAGGLE_API_TOKEN", "").strip():
        return _token(secret, "KAGGLE_API_TOKEN")
    if (user := os.environ.get("KAGGLE_USERNAME")) and (key := os.environ.get("KAGGLE_KEY")):
        return Token(key, user)
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    for path in (folder / "access_token", folder / "kaggle.json"):
        try:
            content = path.read_text(encoding="utf-8").strip()
            if path.name == "access_token":
                return _token(content, str(path))
            pair = json.loads(content)
            return Token(str(pair["key"]), str(pair["username"]))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            raise Unavailable(f"{path} is not a Kaggle token") from None  # its content is a secret
    raise Unavailable(f"no token in KAGGLE_API_TOKEN, or as access_token or kaggle.json in {folder}")


def _token(secret: str, where: str) -> Token:
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise Unavailable(f"{where} is not a Kaggle token")
    return Token(secret)


def has_hash(path: Path, expected: str, *, sha256: str) -> bool:
    """Whether a file has a published hash; its SHA-256 is known already."""
    return expected == f"sha256:{sha256}" if expected.startswith("sha256:") else _fits(path, expected)


def _fits(path: Path, expected: str | None) -> bool:
    """Whether a file has this hash, "md5:…" or "sha256:…", if any is known."""
    if expected is None:
        return True
    algorithm, _, value = expected.partition(":")
    with path.open("rb") as file:
        return value == hashlib.file_digest(file, algorithm).hexdigest()


def _repeatedly(attempt: Callable[[], T], say: Say) -> T:
    """Try again, after longer and longer waits, what may go well the next time."""
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    waits = iter(WAITS)
    while True:
        try:
            return attempt()
        except (RequestException, HTTPError, _TryAgain) as error:
            reason, wait = _reason(error), next(waits, None)
            # Of requests, a ValueError means that the address or the proxy itself is wrong.
            if wait is None or isinstance(error, ValueError):
                raise Unavailable(reason) from None
            if isinstance(error, _TryAgain):
                wait = max(wait, error.wait)
        except UnicodeError:  # a host that cannot be encoded
            raise Unavailable("not an address") from None
        say(f"{reason}; trying again in {wait:g} s")
        time.sleep(wait)


def _check_status(response: "Response", *, token: Token | None = None) -> None:
    status = response.status_code
    if status < 400:
        return
    reason = f"HTTP {status} {response.reason}"
    if status >= 500 or status in (408, 429):
        wait = _retry_after(response.headers.get("Retry-After", ""))
        if wait > LONGEST_WAIT:
            raise Unavailable(f"{reason}: it asks to wait {wait:,.0f} s")
        raise _TryAgain(reason, wait)
    if token and status in (401, 403):
        reason += ": the token is wrong, or the terms on the page are not accepted yet"
    raise Unavailable(reason)


def _retry_after(value: str) -> float:
    """Seconds that a server asks to wait: a number of them, or a date; 0 where it says neither."""
    if value.strip().isdecimal():
        return min(float(value), 1e9)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _reason(error: Exception) -> str:
    """What went wrong, in few words; the libraries' own hold addresses, passwords and objects."""
    import requests
    from urllib3.exceptions import ReadTimeoutError

    match error:
        case _TryAgain():
            return str(error)
        case requests.exceptions.InvalidProxyURL():
            return "the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) is not an address"
        case requests.exceptions.ProxyError():
            return "no connection to the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY)"
        case requests.exceptions.SSLError():
            return "its certificate cannot be verified"
        case requests.Timeout() | ReadTimeoutError():
            return f"no answer for {TIMEOUT:g} s"
        case requests.ConnectionError():
            return "no connection"
        case requests.exceptions.InvalidSchema() if "SOCKS" in str(error):
            return "a SOCKS proxy needs the package PySocks"
        case requests.exceptions.InvalidSchema():
            return "only addresses of http:// and https:// are fetched"
        case ValueError():
            return "not an address"
        case _:
            return f"the transfer broke off ({type(error).__name__})"


@dataclass
class _Transfer:
    """Brings the bytes of a file; it continues `<file>.part`.

    A transfer of unknown hash is continued only if the server vouches, by an entity tag, that the
    file is still the same one.
    """

    wanted: Wanted
    say: Say
    token: Token | None
    resumed: bool = False

    @property
    def part(self) -> Path:
        return self.wanted.path.with_name(f"{self.wanted.path.name}.part")

    @property
    def tag(self) -> Path:
        return self.wanted.path.with_name(f"{self.wanted.path.name}.tag")

    def bring(self, url: str) -> None:
        headers = self._resume()
        start = self.part.stat().st_size if headers else 0
        self.resumed = start > 0
        if not (start and start == self.wanted.size):
            self._bring(url, {"Accept-Encoding": "identity", **headers}, start)
        self.tag.unlink(missing_ok=True)
        if not _fits(self.part, self.wanted.hash):
            self.part.unlink()
            if self.resumed:  # it may be a mixture of two
                raise _TryAgain("the parts do not fit together")
            raise Unavailable(f"gives another file than the one with {self.wanted.hash}{self.wanted.note}")
        os.replace(self.part, self.wanted.path)

    def _resume(self) -> dict[str, str]:
        """The request's headers that ask for the rest of the file; none: ask for all of it."""
        if not self.part.exists() or not (size := self.part.stat().st_size):
            return {}
        if self.wanted.size is not None and size > self.wanted.size:
            return {}
        if self.wanted.hash:
            return {"Range": f"bytes={size}-"}
        return {"Range": f"bytes={size}-", "If-Range": self.tag.read_text()} if self.tag.exists() else {}

    def _bring(self, url: str, headers: dict[str, str], start: int) -> None:
        import requests

        with requests.get(url, headers=headers, auth=self.token, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # the server's file ends where ours does, or before
                if response.headers.get("Content-Range") == f"bytes */{start}":
                    return
                self.part.unlink()
                raise _TryAgain("the file there is shorter than what has arrived")
            _check_status(response, token=self.token)
            if response.headers.get("Content-Type", "").strip().lower().startswith("text/html"):
                raise Unavailable("gives a web page, not the file")
            if response.status_code != 206:
                start, self.resumed = 0, False
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self.part.unlink()
                raise _TryAgain("the server gives another part than the one asked for")
            length = response.headers.get("Content-Length", "").strip()
            total = start + int(length) if length.isascii() and length.isdecimal() else None
            self._check(total, start)
            tag = response.headers.get("ETag", "")
            if tag.startswith('"'):  # a weak one (W/"…") does not vouch for bytes
                self.tag.write_text(tag)
            else:
                self.tag.unlink(missing_ok=True)
            self._store(response, start, total)

    def _check(self, total: int | None, start: int) -> None:
        if total is None:
            return
        if self.wanted.size is not None and total != self.wanted.size:
            raise Unavailable(f"gives a file of {total:,} bytes, published are {self.wanted.size:,}")
        folder = self.wanted.path.parent
        free = shutil.disk_usage(folder).free
        if total - start > free:
            raise InputError(
                f"{folder}: {self.wanted.path.name} needs {_bytes(total - start)} but only {_bytes(free)} are free; "
                "make room and run the same command again"
            )

    def _store(self, response: "Response", start: int, total: int | None) -> None:
        name = self.wanted.path.name
        with self.part.open("ab" if start else "wb") as file, _progress(name, start, total, self.say) as arrived:
            # Undecoded: some servers mark a .tar.gz as compressed for the transfer.
            since, count = time.monotonic(), 0
            # Not `stream`, which waits until a whole chunk has arrived: a trickle must be noticed.
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                file.write(chunk)
                arrived(len(chunk))
                count += len(chunk)
                if (seconds := time.monotonic() - since) >= SLOW_AFTER:
                    if count < SLOWEST * seconds:
                        raise Unavailable(f"gives only {_bytes(int(count / seconds))} a second")
                    since, count = time.monotonic(), 0
        if total is not None and (size := self.part.stat().st_size) != total:
            raise _TryAgain(f"the transfer broke off after {size:,} of {total:,} bytes")


@contextmanager
def _progress(name: str, start: int, total: int | None, say: Say) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere a line per tenth of the file, or per 100 MB where its size is unknown."""
    if sys.stdout.isatty():
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns) as bar:
            task = bar.add_task(name, total=total, completed=start)
            yield lambda count: bar.advance(task, count)
        return
    done, step = start, max(total // 10, 1) if total else 100_000_000

    def arrived(count: int) -> None:
        nonlocal done
        before, done = done // step, done + count
        if done // step > before:
            say(f"{name}: {_bytes(done)}" + (f" of {_bytes(total)}" if total else ""))

    yield arrived


def _bytes(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)
