"""The page in a browser: nothing goes wrong, nothing is fetched, and everything works by hand and by keyboard."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from fdl.reporting.report import write_report
from fdl.results.collect import collect
from tests.reporting.fabricate import fabricate, small_grid

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a report of two backbones, sixteen cells, one of them failed."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = small_grid(backbones=["alexnet", "vgg"])
        fabricate(params, failed={"neu/vgg/5shot/fdl/seed1"})
        collect(params)
        write_report(params)
    return (folder / "reports" / "demo" / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@dataclass
class Visit:
    """An opened page, and what it did besides being shown."""

    page: Page
    complaints: list[str]
    requests: list[str]


@pytest.fixture(params=[1440, 390], ids=["wide", "narrow"])
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    """A visit in a window of a desktop's or a phone's width; at its end nothing must have gone wrong."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    seen = Visit(page, [], [])

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda sent: seen.requests.append(sent.url))
    page.goto(address)
    yield seen
    assert seen.complaints == []
    assert [url for url in seen.requests if url != address and not url.startswith("data:")] == []
    context.close()


def column(table: Locator, place: int) -> list[str]:
    """Texts of a column, as far as its rows are shown."""
    rows = table.locator("tbody tr:visible")
    return [text.strip() for text in rows.locator(f"> :nth-child({place})").all_inner_texts()]


def test_the_page_is_no_wider_than_its_window(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("h1")).to_have_text("Does the feature distance loss help?")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    unnamed = "[...document.images].filter((image) => !image.alt && !image.closest('dialog')).length"
    assert page.evaluate(unnamed) == 0


def test_every_picture_is_there(visit: Visit) -> None:
    broken = "[...document.images].filter((image) => image.src && !image.naturalWidth).length"
    visit.page.evaluate("Promise.all([...document.images].filter((i) => i.src).map((i) => i.decode()))")
    assert visit.page.evaluate(broken) == 0


def test_a_column_sorts_both_ways_and_rows_without_value_stay_last(visit: Visit) -> None:
    table = visit.page.locator("table.cells")
    head = table.locator("thead th").filter(has_text="Accuracy")
    for direction in ("ascending", "descending"):
        head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", direction)
        *values, last = column(table, 7)
        assert last == "–"
        assert len(values) == 15
        assert [float(value) for value in values] == sorted(map(float, values), reverse=direction == "descending")


def test_numbers_sort_as_numbers(visit: Visit) -> None:
    table = visit.page.locator("section[aria-label^='Test accuracy, soft vote'] table").first
    head = table.locator("th[data-column='3']")
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    means = [float(text.split(" ")[0]) for text in column(table, 4)]
    assert means == sorted(means)
    assert len(means) == 2


def test_the_filter_leaves_the_rows_with_all_its_words(visit: Visit) -> None:
    table = visit.page.locator("table.cells")
    box = visit.page.locator("label.filter:has(+ .scroll table.cells)").get_by_role("searchbox")
    box.fill("vgg FDL")
    assert set(column(table, 2)) == {"VGG"}
    assert set(column(table, 4)) == {"FDL"}
    expect(visit.page.locator("label.filter:has(+ .scroll table.cells) output")).to_have_text("4 of 16 rows")
    box.fill("")
    assert len(column(table, 2)) == 16


def test_the_gallery_shows_what_is_chosen(visit: Visit) -> None:
    page = visit.page
    shown = page.locator(".exhibit:visible")
    expect(shown).to_have_count(1)
    page.locator("#gallery-choices").get_by_label("Backbone").select_option("VGG")
    page.locator("#gallery-choices").get_by_label("Images per class").select_option("5")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("VGG · 5 images per class · seed 0")
    panels = shown.locator(".panel img")
    assert panels.count() == 5 * 2 * 5  # images, methods, members
    assert page.evaluate("[...document.querySelectorAll('.exhibit .panel img')].every((image) => image.naturalWidth)")
    page.locator("#gallery-choices").get_by_label("Images per class").select_option("")
    expect(shown).to_have_count(2)


def test_figures_enlarge_and_close_by_keyboard(visit: Visit) -> None:
    page = visit.page
    link, dialog = page.locator("#figure-accuracy_over_shots a.enlarge"), page.locator("dialog")
    expect(dialog).to_be_hidden()
    link.focus()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("Test accuracy of 5 members")
    small, large = link.locator("img").bounding_box(), dialog.locator("img").bounding_box()
    assert small is not None
    assert large is not None
    assert large["width"] >= small["width"]
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert link.evaluate("link => link === document.activeElement")


def test_the_keyboard_reaches_every_control(visit: Visit) -> None:
    page = visit.page
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + ' ' + (document.activeElement.className || '')"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {name.split(" ")[0] for name in reached} >= {"A", "BUTTON", "DIV", "SUMMARY"}


def test_the_links_of_the_page_lead_somewhere(visit: Visit, address: str) -> None:
    folder = Path(address.removeprefix("file://")).parent
    targets = visit.page.locator("a[href]").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    for target in targets:
        if target.startswith("#"):
            assert visit.page.evaluate("id => document.getElementById(id) !== null", target[1:]), target
        else:
            assert (folder / target).is_file(), target


def test_tables_that_are_closed_on_the_screen_are_open_on_paper(visit: Visit) -> None:
    tables, navigation = visit.page.locator("details.printed table"), visit.page.get_by_role("navigation")
    assert tables.count() > 5
    expect(tables.first).to_be_hidden()
    visit.page.emulate_media(media="print")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")  # as the browser does before it prints
    for table in tables.all():
        expect(table).to_be_visible()
    expect(navigation).to_be_hidden()
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(tables.first).to_be_hidden()


def test_no_column_is_cut_on_paper(visit: Visit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 1032, "height": 700})  # A4 on its side without its margins, at 96 dots per inch
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wide = "[...document.querySelectorAll('table')].filter((t) => t.getBoundingClientRect().right > 1032).length"
    assert page.evaluate(wide) == 0


def test_headings_are_no_buttons_on_paper(visit: Visit) -> None:
    # Chromium repeats the head of a table on each page, but not the buttons in it.
    head = visit.page.locator("th button").first
    assert head.evaluate("button => getComputedStyle(button).display") == "inline-block"
    visit.page.emulate_media(media="print")
    assert head.evaluate("button => getComputedStyle(button).display") == "contents"


def test_the_first_columns_stay_when_a_table_of_results_is_scrolled_on_a_telephone(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    table = visit.page.locator("table.results").first
    lefts = "t => [...t.tBodies[0].rows[0].cells].slice(0, 3).map(c => Math.round(c.getBoundingClientRect().left))"
    before = table.evaluate(lefts)
    table.evaluate("t => { t.parentElement.scrollLeft = 150; }")
    after = table.evaluate(lefts)
    assert after[:2] == before[:2]
    assert after[2] < before[2]


def test_the_answer_and_its_figure_come_first(visit: Visit) -> None:
    page = visit.page
    expect(page.locator(".answer")).to_contain_text("No answer: the images are synthetic")
    first = page.locator("main img").first
    assert first.evaluate("image => image.closest('figure').id") == "figure-forest"
    expect(page.locator(".about")).to_contain_text("15 of 16 ensembles trained")
    assert page.locator("main > p, main section > p").evaluate_all(
        "parts => parts.map(part => part.className).filter(name => ['compared', 'answer', 'about'].includes(name))"
    ) == ["compared", "answer", "about"]
    expect(page.locator(".banner")).to_contain_text("Partial: 1 of 16 cells have no value.")


def test_large_figures_keep_their_letters_large_on_a_telephone(visit: Visit) -> None:
    large = visit.page.locator(".figures .wide img").first
    assert large.evaluate("image => image.getBoundingClientRect().width") >= 500
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= visit.page.evaluate("innerWidth")
