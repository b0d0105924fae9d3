"""Transfers from a local server that misbehaves: broken off, resumed, refused, never half a file."""

import os
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from fdl.core.places import File, Place
from fdl.data import http
from tests.data import server
from tests.data.fetching import CONTENT, MD5, NEU, OTHER, SHA256, fetch, refused

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("hash_", [SHA256, MD5, None])
def test_a_broken_transfer_goes_on_where_it_ended(site, publish, hash_):
    publish(Place("web", f"{site.address}/a", (File("neu.zip", None, hash_),)))
    site.script["/a/neu.zip"] = [server.truncated, server.truncated]
    assert [line for line in fetch() if "trying again" in line]
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert [request.start for request in site.asked] == [0, len(CONTENT) // 2, len(CONTENT) // 4 * 3]
    assert sum(request.sent for request in site.asked) == len(CONTENT)


def test_a_server_without_ranges_gives_the_whole_file_again(site, publish):
    site.script["/a/neu.zip"] = [server.truncated, server.without_ranges]
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


def test_a_server_that_states_no_size(site, publish):
    site.script["/a/neu.zip"] = [server.without_length]
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_error_is_tried_again(site, publish, status):
    site.script["/a/neu.zip"] = [server.error(status), server.error(status)]
    lines = fetch()
    assert len(site.asked) == 3
    assert len([line for line in lines if line.startswith(f"HTTP {status} ")]) == 2


def test_waits_grow(site, publish, monkeypatch):
    waits = []
    monkeypatch.setattr(http, "WAITS", (1.0, 4.0, 15.0))
    monkeypatch.setattr("time.sleep", waits.append)
    site.script["/a/neu.zip"] = [server.error(500)] * 4
    assert "HTTP 500" in refused()
    assert waits == [1, 4, 15]


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("3", [3.0]),
        ("60", [60.0]),
        ("0", [1.0]),
        ("-7", [1.0]),
        ("soon", [1.0]),
        ("Thu, 01 Jan 1970 00:00:00 GMT", [1.0]),
        ("99999", []),
        ("9" * 400, []),
        ("Fri, 31 Dec 9999 23:59:59 GMT", []),
    ],
)
def test_a_server_may_ask_to_wait_within_bounds(site, publish, monkeypatch, asked, waits):
    slept = []
    monkeypatch.setattr(http, "WAITS", (1.0, 1.0, 1.0))
    monkeypatch.setattr("time.sleep", slept.append)
    site.script["/a/neu.zip"] = [server.busy(503, asked)]
    if waits:
        fetch()
    else:
        assert "HTTP 503 Service Unavailable: it asks to wait " in refused()
    assert slept == waits


def test_a_trickle_is_given_up_for_the_next_place(site, publish, monkeypatch):
    monkeypatch.setattr(http, "SLOW_AFTER", 0.2)
    monkeypatch.setattr(http, "SLOWEST", 20_000)
    published = (File("neu.zip", len(CONTENT), SHA256),)
    publish(Place("web", f"{site.address}/b", published), Place("web", f"{site.address}/a", published))
    site.files["/b/neu.zip"] = CONTENT
    site.script["/b/neu.zip"] = [server.trickling(0.02)]
    lines = fetch()
    assert any(line.startswith(f"neu: {site.address}/b: gives only ") and "a second" in line for line in lines)
    assert 0 < site.asked_for("/a/neu.zip")[0].start < 4000, "it goes on from what has arrived"


@pytest.mark.parametrize("hash_", [SHA256, None])
@pytest.mark.parametrize("length", ["-5", "many", "1e3", ""])
def test_a_length_that_is_none_is_ignored(site, publish, hash_, length):
    publish(Place("web", f"{site.address}/a", (File("neu.zip", len(CONTENT), hash_),)))
    site.script["/a/neu.zip"] = [server.of_length(length)]
    lines = fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert not any("-5" in line or "None" in line for line in lines)


def test_a_file_in_chunks(site, publish):
    site.script["/a/neu.zip"] = [server.chunked]
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("address", "proxy", "said"),
    [
        ("file:///srv/neu", None, "only addresses of http:// and https:// are fetched"),
        ("ftp://neu.example", None, "only addresses of http:// and https:// are fetched"),
        ("http://", None, "not an address"),
        ("http://" + "a" * 70 + ".example", None, "not an address"),
        ("http://neu.example", "http://127.0.0.1:9", "no connection to the proxy that the environment names"),
        ("http://neu.example", "http://", "the proxy that the environment names (HTTP_PROXY, "),
    ],
)
def test_what_is_wrong_with_an_address_or_a_proxy_is_said(site, publish, monkeypatch, address, proxy, said):
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if proxy is not None:
        monkeypatch.setenv("http_proxy", proxy)
    publish(Place("web", address, (File("neu.zip"),)))
    assert said in refused()


@pytest.mark.parametrize("status", [403, 404])
def test_a_lasting_error_is_not_tried_again(site, publish, status):
    site.script["/a/neu.zip"] = [server.error(status)]
    assert f"HTTP {status}" in refused()
    assert len(site.asked) == 1


def test_a_server_that_stops_sending_is_given_up_and_resumed(site, publish, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.2)
    released = threading.Event()
    site.script["/a/neu.zip"] = [server.held(released)]
    try:
        assert "no answer for 0.2 s; trying again in 0 s" in fetch()
    finally:
        released.set()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert 0 < site.asked[1].start <= len(CONTENT) // 2


def test_a_transfer_that_began_at_one_place_goes_on_at_the_next(site, publish):
    published = (File("neu.zip", len(CONTENT), SHA256),)
    publish(Place("web", f"{site.address}/b", published), Place("web", f"{site.address}/a", published))
    site.files["/b/neu.zip"] = CONTENT
    site.script["/b/neu.zip"] = [server.truncated, *[server.error(500)] * 3]
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert site.asked_for("/a/neu.zip")[0].start == len(CONTENT) // 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (server.other(CONTENT[::-1]), "gives another file than the one with sha256:"),
        (server.other(CONTENT[:-1]), "gives a file of 2,047,999 bytes, published are 2,048,000"),
        (server.web_page, "gives a web page, not the file"),
    ],
)
def test_another_file_is_never_put_in_place(site, publish, answer, said):
    site.script["/a/neu.zip"] = [answer]
    assert said in refused()
    assert not list(NEU.rglob("neu.zip*"))
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


def test_parts_that_do_not_fit_together_are_fetched_anew(site, publish):
    (NEU / ".partial").mkdir(parents=True)
    (NEU / ".partial/neu.zip.part").write_bytes(b"of an older file")
    assert "the parts do not fit together; trying again in 0 s" in fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert [request.start for request in site.asked] == [16, 0]


def test_a_part_longer_than_the_file_is_fetched_anew(site, publish):
    (NEU / ".partial").mkdir(parents=True)
    (NEU / ".partial/neu.zip.part").write_bytes(CONTENT * 2)
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert [request.start for request in site.asked] == [0]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_is_the_whole_file_is_not_fetched_again(site, publish, size):
    """The process was killed after the last byte, before the hash was checked."""
    (NEU / ".partial").mkdir(parents=True)
    (NEU / ".partial/neu.zip.part").write_bytes(CONTENT)
    publish(Place("web", f"{site.address}/a", (File("neu.zip", size, SHA256),)))
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert sum(request.sent for request in site.asked) == 0


def test_a_part_longer_than_the_file_of_unstated_size_is_fetched_anew(site, publish):
    (NEU / ".partial").mkdir(parents=True)
    (NEU / ".partial/neu.zip.part").write_bytes(CONTENT * 2)
    publish(Place("web", f"{site.address}/a", (File("neu.zip", None, SHA256),)))
    assert "the file there is shorter than what has arrived; trying again in 0 s" in fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


def test_without_a_known_hash_parts_are_joined_only_if_the_server_vouches_for_them(site, publish):
    publish(Place("web", f"{site.address}/a", (File("neu.zip"),)))
    site.script["/a/neu.zip"] = [server.truncated, server.other(OTHER)]
    fetch()  # the file changed between the two requests
    assert (NEU / "neu.zip").read_bytes() == OTHER
    assert site.asked[1].headers["If-Range"]


def test_without_a_known_hash_and_a_tag_it_begins_anew(site, publish):
    publish(Place("web", f"{site.address}/a", (File("neu.zip"),)))
    site.script["/a/neu.zip"] = [server.without_tag]
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert [request.start for request in site.asked] == [0, 0]


def test_a_full_disk_is_noticed_before_the_transfer(site, publish, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "neu.zip needs 2.0 MB but only 1.0 kB are free; make room" in refused()
    assert not (NEU / ".partial/neu.zip.part").exists()


def test_progress_is_a_line_per_tenth(site, publish):
    lines = [line for line in fetch() if line.startswith("neu.zip: ")]
    assert 4 <= len(lines) <= 10
    assert lines[-1] == "neu.zip: 2.0 MB of 2.0 MB"


# A child process: it patches SOURCES as the test says, then fetches NEU.
CHILD = """
import os, signal, sys
from dataclasses import replace
from fdl.data import download
from fdl.core.places import File, Place
from fdl.data.sources import SOURCES
address, size, hash_, behaviour = sys.argv[1:]
place = Place("web", address, (File("neu.zip", int(size), hash_),))
SOURCES["neu"] = replace(SOURCES["neu"], places=(place,))

def say(line):
    print(line, flush=True)
    if behaviour == "dies" and line.startswith("neu.zip: "):
        os.kill(os.getpid(), signal.SIGKILL)

download.fetch("neu", say=say)
"""


def child(site, behaviour="lives"):
    arguments = [sys.executable, "-c", CHILD, f"{site.address}/a", str(len(CONTENT)), SHA256, behaviour]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_resumed_by_the_next(site, publish):
    released = threading.Event()
    site.script["/a/neu.zip"] = [server.held(released)]
    with child(site, "dies") as killed:
        assert killed.wait() == -signal.SIGKILL
    released.set()
    arrived = (NEU / ".partial/neu.zip.part").stat().st_size
    assert 0 < arrived < len(CONTENT)
    assert not (NEU / "neu.zip").exists()
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert site.asked[1].start == arrived
    assert not (NEU / ".partial").exists()


def test_two_processes_at_once_fetch_once(site, publish):
    released, arrived = threading.Event(), threading.Event()
    site.script["/a/neu.zip"] = [server.held(released, arrived)]
    with child(site) as first:
        assert arrived.wait(60)
        with child(site) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == f"{NEU}: another process works on it; waiting\n"
            released.set()
            assert second.stdout.read() == f"neu: 1 file verified in {NEU}\n"
        assert first.stdout is not None
        assert "neu: 1 file verified" in first.stdout.read()
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(site.asked) == 1
