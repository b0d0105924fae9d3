"""What `write_scores` makes of predictions that are worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from fdl.evaluation.voting import COMBINERS
from fdl.results.scoring import write_scores

LABELS = {"train": [0, 1], "validation": [1, 0], "test": [0, 1, 1, 0, 1]}


def sure(*classes):
    """Logits (N, 2) of a member that is sure of these classes."""
    return 9 * np.eye(2, dtype=np.float32)[list(classes)]


# Member 0 is the better one on validation, member 1 on test.
PREDICTED = {
    "train": [sure(0, 1), sure(0, 0)],
    "validation": [sure(1, 0), sure(1, 1)],
    "test": [sure(1, 1, 1, 1, 1), sure(0, 1, 1, 0, 0)],
}


def write(folder, *, cosines=((0.5, 0.25, 1.0, 0.0, 0.75),), empty=((0, 0, 0, 0, 0), (0, 1, 0, 0, 0)), **changes):
    """Scores of two rules, of which `sum` is the first; its metrics by (selection, split, combiner, metric)."""
    stored = {f"{split}/labels": np.array(labels) for split, labels in LABELS.items()}
    for rule in ("sum", "last"):
        for number, split in enumerate(LABELS):
            stored[f"{rule}/{split}/logits"] = np.stack(PREDICTED[split])
            stored[f"{rule}/{split}/distance"] = np.array([number + 0.5, number + 0.25])
    stored["sum/validation/fusion"], stored["sum/test/fusion"] = sure(0, 0), sure(0, 1, 1, 0, 1)
    np.savez(folder / "predictions.npz", **{name: value for name, value in (stored | changes).items() if len(value)})
    packed = np.packbits(np.array(empty, bool), axis=-1)
    np.savez(folder / "cam.npz", cosines=np.array(cosines, np.float16).reshape(-1, 5), empty=packed)
    write_scores(folder, folder)
    rows = json.loads((folder / "metrics.json").read_text())
    metrics = {(row["selection"], row["split"], row["combiner"], row["metric"]): row["value"] for row in rows}
    assert len(metrics) == len(rows)
    with np.load(folder / "correct.npz") as correct:
        return metrics, dict(correct)


def test_accuracies_of_every_split_and_rule(tmp_path):
    metrics, _ = write(tmp_path)
    for rule in ("sum", "last"):
        accuracies = {
            (split, name): metrics[rule, split, name, "accuracy"]
            for split in ("validation", "test")
            for name in ("member0", "member1", "best", "mean", "hard", "soft")
        }
        assert accuracies == {
            ("validation", "member0"): 1, ("validation", "member1"): 0.5, ("validation", "best"): 1,
            ("validation", "mean"): 0.75, ("validation", "hard"): 1, ("validation", "soft"): 1,  # a tie goes to class 0
            ("test", "member0"): 0.6, ("test", "member1"): 0.8, ("test", "best"): 0.6,
            ("test", "mean"): pytest.approx(0.7), ("test", "hard"): 0.8, ("test", "soft"): 0.8,
        }  # fmt: skip
    assert metrics["sum", "test", "fusion", "accuracy"] == 1
    assert metrics["sum", "validation", "fusion", "accuracy"] == 0.5
    assert ("last", "test", "fusion", "accuracy") not in metrics  # heads are trained on the first rule alone
    assert ("sum", "train", "soft", "accuracy") not in metrics


def test_diversity_and_distance_of_every_split(tmp_path):
    metrics, _ = write(tmp_path)
    for number, split in enumerate(("train", "validation", "test")):
        assert metrics["last", split, "ensemble", "cosine_sum"] == number + 0.5
        assert metrics["last", split, "ensemble", "gaussian_sum"] == number + 0.25
    assert metrics["sum", "train", "ensemble", "disagreement"] == 0.5
    assert metrics["sum", "validation", "ensemble", "disagreement"] == 0.5
    assert metrics["sum", "test", "ensemble", "disagreement"] == pytest.approx(3 / 5)
    assert metrics["sum", "test", "ensemble", "oracle_accuracy"] == 1


def test_the_overlap_is_that_of_the_first_rule_and_of_images_with_both_maps(tmp_path):
    metrics, _ = write(tmp_path)
    # One of five pairs is left out: (0.5 + 1 + 0 + 0.75) / 4.
    assert metrics["sum", "test", "ensemble", "cam_overlap"] == pytest.approx(2.25 / 4)
    assert metrics["sum", "test", "ensemble", "cam_left_out"] == pytest.approx(1 / 5)
    assert ("last", "test", "ensemble", "cam_overlap") not in metrics


def test_without_any_pair_of_maps_there_is_no_overlap(tmp_path):
    metrics, _ = write(tmp_path, empty=((1,) * 5, (0,) * 5))
    assert metrics["sum", "test", "ensemble", "cam_left_out"] == 1
    assert ("sum", "test", "ensemble", "cam_overlap") not in metrics
    single, _ = write(tmp_path, cosines=(), empty=((0,) * 5,))
    assert not any("cam" in metric for *_, metric in single)


def test_records_without_predictions_of_training_images_have_no_rows_of_them(tmp_path):
    metrics, _ = write(tmp_path, **{"train/labels": ()})
    assert {split for _, split, _, _ in metrics} == {"validation", "test"}


def test_which_test_images_are_right_is_kept_in_bits(tmp_path):
    _, correct = write(tmp_path)
    count = int(correct["n"])
    assert count == 5

    def unpacked(name):
        return np.unpackbits(correct[name], count=count).tolist()

    assert unpacked("sum/member0") == unpacked("sum/best") == [0, 1, 1, 0, 1]
    assert unpacked("sum/member1") == [1, 1, 1, 1, 0]
    assert unpacked("sum/hard") == [1, 1, 1, 1, 0]  # a tie goes to class 0
    assert unpacked("sum/fusion") == [1] * 5
    assert "last/fusion" not in correct
    images, confidence, right = correct["reliability/last"]
    assert images.sum() == 5
    assert right.sum() == 4
    both = 1 / (1 + np.exp(-9))
    assert confidence.sum() == pytest.approx(2 * both + 3 * 0.5)


def test_the_soft_vote_has_the_mean_probabilities(tmp_path):
    # On three of five images the members differ, so that both classes have a half; on two they are sure and right.
    metrics, _ = write(tmp_path)
    sure_one = 1 / (1 + np.exp(-9))
    assert metrics["sum", "test", "soft", "nll"] == pytest.approx((3 * np.log(2) - 2 * np.log(sure_one)) / 5)
    assert metrics["sum", "test", "soft", "brier"] == pytest.approx((3 * 0.5 + 4 * (1 - sure_one) ** 2) / 5)


def test_the_trained_combiners_are_four():
    trained = [name for name, combiner in COMBINERS.items() if combiner.trained]
    assert trained == ["fusion", "fusion-tuned", "stacking", "stacking-tuned"]


class Payload:
    """What harms whoever unpickles it."""

    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("name", ["predictions.npz", "cam.npz"])
def test_a_record_from_elsewhere_runs_no_code(project, name):
    write(project)
    with np.load(name) as content:
        np.savez(name, allow_pickle=True, **dict(content) | dict.fromkeys(content, np.array([Payload()])))
    with pytest.raises(ValueError, match="allow_pickle"):
        write_scores(project, project)
    assert not Path("harmed").exists()
