"""A server, and NEU published on it."""

from dataclasses import replace

import pytest

from fdl.core.places import File, Place
from fdl.data import http
from fdl.data.sources import SOURCES
from tests.data.fetching import CONTENT, SHA256
from tests.data.server import serve


@pytest.fixture
def site(project, monkeypatch):
    """A server with one file, `/a/neu.zip`; no waiting between attempts, no token, no mirror."""
    monkeypatch.setattr(http, "WAITS", (0.0, 0.0, 0.0))
    for name in ("FDL_MIRROR", "FDL_OFFLINE", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(project / "kaggle"))
    with serve({"/a/neu.zip": CONTENT}) as site:
        yield site


@pytest.fixture
def publish(site, monkeypatch):
    """Say where NEU is published; the default is `/a/neu.zip` on the test's server, of known size and hash."""

    def say(*published: Place) -> None:
        default = Place("web", f"{site.address}/a", (File("neu.zip", len(CONTENT), SHA256),))
        monkeypatch.setitem(SOURCES, "neu", replace(SOURCES["neu"], places=published or (default,)))

    say()
    return say
