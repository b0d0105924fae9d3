"""A hook of MkDocs: pages and figures that lie outside this folder, the links to them, and formulas as MathML."""

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the figures that any page shows."""
    pages = config.extra["pages_from_root"]
    for path, page in pages.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    sources = [*(ROOT / "docs").glob("*.md"), *(ROOT / path for path in pages)]
    links = {link for source in sources for link in _links_from_root(source)}
    for figure in sorted(link for link in links if link.endswith(".png")):
        files.append(File.generated(config, figure, abs_src_path=str(ROOT / figure)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links, which hold in the repository, at the places in the site, where all pages lie side by side."""
    pages = config.extra["pages_from_root"]
    at_root = {site: path for path, site in pages.items()}
    folder = posixpath.dirname(at_root.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def in_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link.group()))
        return pages.get(path, path.removeprefix("docs/"))

    return _LINK.sub(in_site, markdown)


def on_page_content(html_text: str, **_: object) -> str:
    """Formulas as MathML, which browsers draw by themselves."""

    def as_mathml(formula: re.Match[str]) -> str:
        block = formula[2] == "["
        drawn = convert(html.unescape(formula[3]), display="block" if block else "inline")
        return f'<div style="overflow-x: auto">{drawn}</div>' if block else str(drawn)

    return _FORMULA.sub(as_mathml, html_text)


def _links_from_root(source: Path) -> list[str]:
    folder = source.parent.relative_to(ROOT).as_posix()
    links = _LINK.findall(source.read_text(encoding="utf-8"))
    return [posixpath.normpath(posixpath.join(folder, link)) for link in links]
