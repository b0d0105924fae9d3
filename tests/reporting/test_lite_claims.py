"""The verdicts of preset `lite` from its published records: by rules 1 as they stand, and what rules 2 would say.

After a wanted change of rules 2, `python -m tests.reporting.test_lite_claims` writes golden/claims_rules_2.json again;
rules 1 do not change any more.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from fdl.core.settings import Params, load
from fdl.reporting.answer import first_sentence
from fdl.reporting.claim_tables import Claim
from fdl.reporting.claims import evaluate, write_claims
from fdl.reporting.report import headline
from fdl.results.collect import collect
from fdl.results.transfer import import_records
from tests.reporting.fabricate import PARAMS_FILE

LITE = Path(__file__).parents[2] / "reports" / "lite"
PUBLISHED = LITE.parent / "published" / "lite"
GOLDEN = Path(__file__).with_name("golden") / "claims_rules_2.json"


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """Settings of `lite`, in a folder with its published records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lite"))
        yield collected()


def collected() -> Params:
    params = load(PARAMS_FILE, preset="lite")
    import_records(params, LITE / "records.tar.gz", say=lambda line: None)
    collect(params)
    return params


def by_rules(params: Params, rules: int) -> list[Claim]:
    return evaluate(params.model_copy(update={"claims": params.claims.model_copy(update={"rules": rules})}))


def summary(claims: list[Claim]) -> list[dict[str, Any]]:
    names = ("id", "slice", "by_dataset", "estimate", "low", "high", "df", "p", "beside", "spread", "verdict", "reason")
    lines = [{name: getattr(claim, name) for name in names} for claim in claims]
    written: list[dict[str, Any]] = json.loads(json.dumps(lines))
    return written


def test_rules_1_give_the_published_verdicts(lite: Params) -> None:
    files = {path.name: path.read_text() for path in write_claims(lite, evaluate(lite))}
    assert len(files) == 5
    for name, text in files.items():
        folder = PUBLISHED if name == "claims.json" else PUBLISHED / "tables"
        assert text == (folder / name).read_text(), name


def test_c1_of_lite_is_as_it_was_fixed_and_says_how_sensitive_it_is(lite: Params) -> None:
    c1 = evaluate(lite)[0]
    assert (c1.rules, c1.estimate, c1.low, c1.high) == (1, -1.677037, -2.817519, -0.536555)
    assert c1.reading == "contradicted on this grid (95 % interval below 0)"
    assert c1.sensitivity == (
        "Sensitivity: if seeds vary at least as much as independent cells would (standard deviation of the seeds' "
        "means: NEU 1.71 instead of 3.20), the 95 % interval is [−3.71, +0.35] and includes 0"
    )


def test_without_all_records_nothing_is_decided_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = collected()
    shutil.rmtree("results/lite/neu/alexnet/10shot")
    collect(params, partial=True)
    assert "Not decided yet, 50 of 60 ensembles are done: until now FDL − classical is −1." in headline(params)
    assert "not a sample of the grid" not in headline(params)
    shutil.rmtree("results/lite/neu")
    collect(params, partial=True)
    only = "That is not a sample of the grid: only 1 of 2 combinations of dataset and backbone have results."
    assert only in headline(params)


def test_the_caveat_of_lite_stands_wherever_its_verdict_does(lite: Params) -> None:
    caveat = lite.claims.remark
    assert caveat
    assert f"Caveat: {caveat}" in headline(lite).splitlines()
    page = (PUBLISHED / "index.html").read_text()
    # Below the answer, of which the first sentence is always seen, and in the table's caption.
    for part in first_sentence(caveat):
        assert page.count(escape(part).replace("&#x27;", "&#39;")) >= 2
    assert page.index(first_sentence(caveat)[0]) < page.index('id="figure-forest"')
    assert "the 95 % interval is [−3.71, +0.35] and includes 0" in page


def test_rules_2_on_the_same_records(lite: Params) -> None:
    assert summary(by_rules(lite, 2)) == json.loads(GOLDEN.read_text())


def test_the_page_lists_points_with_the_decimals_of_its_answer(lite: Params) -> None:
    shown = {claim.id: claim.summary_text for claim in evaluate(lite)}
    assert "−1.7 points of test accuracy (95 % interval −2.8 to −0.5)" in headline(lite)
    assert shown["C1"] == "−1.7 [−2.8, −0.5] points"
    assert shown["C4"] == "−0.06 [−0.08, −0.03] cosine similarity"
    assert shown["C7"] == "ratio 0.43"


def test_small_units_have_a_third_decimal(lite: Params) -> None:
    """Else an interval that excludes zero may read as if it did not."""
    c5b = next(claim for claim in by_rules(lite, 2) if claim.id == "C5b")
    known = replace(c5b, unit="nats", estimate=0.0029, low=0.0006, high=0.0052, by_dataset={})
    assert known.summary_text == "+0.003 [+0.001, +0.005] nats"


if __name__ == "__main__":
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        content = summary(by_rules(collected(), 2))
    GOLDEN.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
