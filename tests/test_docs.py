"""The documentation: every page has its place in the site, and every link, anchor and named file is there."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from fdl.cli.main import app
from tests.projects import ROOT

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PAGES = [*SITE["extra"]["pages_from_root"], *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def text_of(page: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: str) -> set[str]:
    """The headings' anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_navigation_holds_every_page_once() -> None:
    def pages(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            for below in node if isinstance(node, list) else node.values():  # type: ignore[attr-defined]
                yield from pages(below)

    names = [SITE["extra"]["pages_from_root"].get(page, page.removeprefix("docs/")) for page in PAGES]
    assert sorted(pages(SITE["nav"])) == sorted(names)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(str(target.relative_to(ROOT))), link


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_project_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:fdl|tests|workflow|benchmarks|docs|config)/[\w./-]*\w/?)`", text_of(page))
    made = {"fdl/models/plain.py"}  # by the reader
    assert [path for path in named if path not in made and not (ROOT / path).exists()] == []


def test_every_command_that_a_page_shows_exists() -> None:
    """The verbs and options of `fdl`, and the targets of make."""
    fdl = typer.main.get_command(app)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    shown = 0
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        commands = re.findall(r"`([^`\n]+)`", text)
        commands += [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        for command in commands:
            if make := re.match(r"make ([a-z-]+)", command):
                assert make[1] in targets, (page, command)
            if called := re.search(r"(?:^| )(?:python -m fdl|fdl) ([a-z].*)", command):
                words = re.split(r"[#;&|]", called[1])[0].split()
                found = fdl
                while words and (verbs := getattr(found, "commands", {})):
                    assert words[0] in verbs, (page, command)
                    found = verbs[words.pop(0)]
                known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
                assert {word for word in words if word.startswith("--")} <= known, (page, command)
                shown += 1
    assert shown > 50


def test_the_site_is_built_and_asks_no_other_server(tmp_path: Path) -> None:
    if not importlib.util.find_spec("material"):
        pytest.skip("needs the packages of `make docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    built = "".join(page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html"))
    assert "<math" in built
    assert re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//[^>]*>", built) == []
    assert re.findall(r"<link[^>]* href=\"?(?:https?:)?//[^>]*>", built) == []
