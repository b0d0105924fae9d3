"""What messages recommend is asked of the same settings as the command that they answer."""

import pytest

from fdl.cli.options import with_options

ONLY = "x: not made yet; run `python -m fdl report --preset lite --only claims`"


@pytest.mark.parametrize(
    ("message", "arguments", "expected"),
    [
        (ONLY, ["report"], ONLY),
        (
            ONLY,
            ["report", "--preset", "lite"],
            "x: not made yet; run `python -m fdl report --only claims --preset lite`",
        ),
        ("run `python -m fdl split`", ["run", "--set", "epochs=3"], "run `python -m fdl split --set epochs=3`"),
        (
            "`python -m fdl run --preset demo` or `python -m fdl collect`",
            ["status", "--configfile=my own.yaml", "--preset", "mine"],
            "`python -m fdl run '--configfile=my own.yaml' --preset mine` or "
            "`python -m fdl collect '--configfile=my own.yaml' --preset mine`",
        ),
    ],
)
def test_a_recommended_command_names_the_settings_once(message, arguments, expected):
    assert with_options(message, arguments) == expected
