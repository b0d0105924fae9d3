"""docs/report.md lists what the entries say."""

from fdl.reporting.documentation import filled, lists
from fdl.reporting.targets import entries
from tests.projects import ROOT


def test_the_page_holds_the_lists_as_make_format_writes_them() -> None:
    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    assert all(page.count(table) == 1 for table in lists().values())
    assert filled(page) == page
    assert filled(page.replace("### forest", "### wood")) == page


def test_every_entry_says_what_it_shows_and_how_to_read_it() -> None:
    for entry in entries().values():
        assert entry.shows.endswith(".")
        assert entry.title[0].isupper()
        assert entry.reading.endswith(".")
