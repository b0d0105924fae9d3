"""The line at the end of an epoch."""

import pytest

from fdl.training.progress import Pace, Throttle


def clock(*times):
    """Seconds, one reading after the other."""
    readings = iter(times)
    return lambda: next(readings)


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (2.0, "15 images/s, 18 s left"),
        (60.0, "0 images/s, 9 min left"),
        (3600.0, "0 images/s, 9 h 0 min left"),
    ],
)
def test_a_pace_tells_images_per_second_and_the_time_left(seconds, line):
    assert Pace(10, 30, clock(0.0, seconds)).line(0) == line


def test_a_pace_counts_from_where_the_training_went_on():
    pace = Pace(10, 30, clock(100.0, 102.0, 106.0))
    assert pace.line(4) == "15 images/s, 10 s left"
    assert pace.line(5) == "10 images/s, 12 s left"  # 3 s an epoch, four are left


def test_a_throttle_passes_the_first_line_of_a_time():
    lines = []
    throttle = Throttle(lines.append, 5.0, clock(0.0, 1.0, 5.0, 6.0, 11.0))
    for line in "abcd":
        throttle(line)
    assert lines == ["b", "d"]
