"""The question of a report, and the sentence that answers it."""

import html
from pathlib import Path

import pytest

from fdl.core.errors import InputError
from fdl.core.settings import Params
from fdl.reporting.answer import answer, at_chance, compared, first_sentence, gains, question
from fdl.reporting.forest_figures import forest, forest_caption
from fdl.reporting.report import headline, shown_table, write_one, write_report
from fdl.reporting.results import Results, read_results
from fdl.results.collect import collect
from tests.reporting.fabricate import fabricate, results_in_memory, small_grid


def results_of(params: Params, gain: float) -> Results:
    """Invented records of `fdl` that is better by `gain` points in every seed but a little."""
    accuracy = {cell: 0.5 + (cell.method == "fdl") * (gain + 0.1 * (cell.seed - 1)) / 100 for cell in params.cells()}
    fabricate(params, accuracy=accuracy)
    collect(params)
    return read_results(params)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("fdl", "Does the feature distance loss help?"),
        ("gncl", "Does GNCL help?"),
        (None, "How accurate are the ensembles?"),
    ],
)
def test_the_question_names_the_method(method: str | None, text: str) -> None:
    assert question(method) == text


def test_without_a_frozen_grid_the_answer_is_the_difference_and_no_verdict(project: Path) -> None:
    results = results_of(small_grid(source="local", seeds=[0, 1, 2]), 3.0)
    # Differences 2.9, 3.0, 3.1: s = 0.1, t(0.975, 2) = 4.303, half width 0.25.
    assert answer(results, []) == (
        "No verdict, because this preset has no frozen grid: FDL − classical is +3.0 points of test accuracy (95 % "
        "interval +2.8 to +3.2) over 6 pairs."
    )


def test_two_seeds_give_no_interval(project: Path) -> None:
    results = results_of(small_grid(source="local"), 3.0)
    assert "points of test accuracy (too few seeds for an interval) over" in answer(results, [])


def test_ensembles_at_chance_are_named_with_what_to_try(project: Path) -> None:
    params = small_grid(source="local", backbones=["alexnet", "vgg"])
    chance = 1 / 6
    accuracy = {
        cell: chance + (0.01 if (cell.backbone, cell.shots) == ("vgg", 3) else 0.03) - 0.02 * (cell.method == "fdl")
        for cell in params.cells()
    }
    fabricate(params, accuracy=accuracy)
    collect(params)
    results = read_results(params)
    # Of the classical ensembles only VGG's with 3 images are less than 2 points above chance; FDL's decide nothing.
    advice = at_chance(results)
    assert advice.startswith(
        "Some classical ensembles are less than 2 points better than guessing: NEU · VGG with 3 per class (17.7 %, "
        "chance 16.7 %). "
    )
    assert "more epochs" in advice
    assert advice in headline(params).splitlines()
    write_report(params)
    assert advice in html.unescape(Path("reports/demo/index.html").read_text())
    assert at_chance(results_in_memory(params, results.collected, dict.fromkeys(params.cells(), 0.5))) == ""


def test_synthetic_images_answer_nothing(project: Path) -> None:
    results = results_of(small_grid(seeds=[0, 1, 2]), 3.0)
    assert answer(results, []).startswith("No answer: the images are synthetic (")


def test_the_forest_plot_has_a_row_per_net_and_all_of_them_last(project: Path) -> None:
    results = results_of(small_grid(source="local", backbones=["alexnet", "vgg"], seeds=[0, 1, 2]), -4.0)
    rows = gains(results, "fdl")
    assert [title for title, _ in rows] == ["NEU · AlexNet", "NEU · VGG", "all"]
    for _, gain in rows:
        assert gain is not None
        assert gain.interval is not None
        assert (gain.mean, *gain.interval) == pytest.approx((-4.05, -4.30, -3.80), abs=0.06)
    axes = forest(results).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["NEU · AlexNet", "NEU · VGG", "all"]
    low, high = axes.get_xlim()
    assert low < -4.3
    assert high == -low
    assert "12 pairs" in forest_caption(results)


def test_a_method_alone_is_compared_with_nothing(project: Path) -> None:
    results = results_of(small_grid(methods=["fdl"]), 0.0)
    assert answer(results, []).startswith("No comparison")
    assert "No method to compare" in forest_caption(results)


def test_a_caveat_is_cut_after_its_first_sentence() -> None:
    assert first_sentence("It rests on NEU. With −0.3 points.") == ("It rests on NEU.", "With −0.3 points.")
    assert first_sentence("One sentence.") == ("One sentence.", "")


def test_a_table_of_the_last_report_is_shown_by_name(project: Path) -> None:
    grid = small_grid()
    fabricate(grid)
    collect(grid)
    with pytest.raises(InputError, match="not made yet"):
        shown_table(grid, "f1_macro")
    write_one(grid, "f1_macro")
    assert shown_table(grid, "f1_macro") == Path("reports/demo/tables/f1_macro.md").read_text().rstrip()
    with pytest.raises(InputError, match="a figure cannot be printed"):
        shown_table(grid, "forest")


def test_without_records_the_packed_ones_are_named(project: Path) -> None:
    grid = small_grid()
    archive = Path("reports/demo/records.tar.gz")
    for stage in (collect, read_results):
        with pytest.raises(InputError) as without:
            stage(grid)
        assert "fdl import" not in str(without.value)
    archive.parent.mkdir(parents=True)
    archive.touch()
    for stage in (collect, read_results):
        with pytest.raises(InputError, match=f"`python -m fdl import {archive} --preset demo` brings in the"):
            stage(grid)


def test_the_version_is_printed() -> None:
    from typer.testing import CliRunner

    from fdl import __version__
    from fdl.cli.main import app

    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"fdl {__version__}\n")


def test_the_page_says_what_is_compared() -> None:
    assert "an ensemble of 3 nets trained jointly on the same batches, FDL the same" in compared("fdl", 3)
    assert "FDL" not in compared("cka", 5)
    assert compared(None, 5) == ""
