"""HTML from the templates in the folder `templates`; values are escaped when they are inserted."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    """Fill a template. The result is marked as safe, so it can be inserted into another template."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(**values))  # the environment has escaped the values


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
