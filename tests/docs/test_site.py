"""The site builds, asks nothing of a network, is searched from a folder; a broken link or anchor fails the build."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "zensical.toml"
PAGES = sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("zensical")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of these pages, built in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(CONFIG, folder)
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def small(folder: Path, page: str) -> Path:
    """A project of one page with the settings of ours."""
    (folder / "docs" / "javascripts").mkdir(parents=True)
    (folder / "docs" / "index.md").write_text(page, encoding="utf-8")
    text = CONFIG.read_text(encoding="utf-8")
    start, end = text.index("nav = ["), text.index("[project.theme]")
    (folder / "zensical.toml").write_text(text[:start] + text[end:], encoding="utf-8")
    return folder


def leaves(tree: list | dict | str) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        for one in tree if isinstance(tree, list) else tree.values():
            yield from leaves(one)


def test_every_page_stands_once_in_the_navigation():
    nav = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]
    assert sorted(leaves(nav)) == PAGES


def test_a_broken_link_fails_the_build(tmp_path):
    built = build(small(tmp_path, "# A page\n\n[gone](nowhere.md)\n"))
    assert built.returncode != 0
    assert "page does not exist" in built.stdout + built.stderr


def test_a_broken_anchor_fails_the_build(tmp_path):
    built = build(small(tmp_path, "# A page\n\n[gone](#nowhere)\n"))
    assert built.returncode != 0
    assert "anchor does not exist" in built.stdout + built.stderr


def test_good_links_pass(tmp_path):
    built = build(small(tmp_path, '# A page\n\n<a id="key-a-b"></a>\n\n[up](#a-page) [key](#key-a-b)\n'))
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.mark.slow
def test_the_site_builds_and_asks_nothing_of_a_network(site):
    for page in PAGES:
        text = (site / page).with_suffix(".html").read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(\w+:[^\"' >]+)", text)
        fetched += re.findall(r"<link[^>]+href=[\"']?(https?:[^\"' >]+)", text)
        assert not fetched, page
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\([\"']?https?:[^)]*\)|@import[^;]*https?:", styles)


@pytest.mark.slow
def test_the_search_works_from_a_folder_without_a_network(site, browser):
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("teacher_cache", delay=30)
    page.get_by_text("models.teacher_cache").first.wait_for(timeout=20_000)
    assert not [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distil", "dial"])
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    import notebooks_page

    book = tmp_path / f"{name}.ipynb"
    shutil.copy(ROOT / "docs" / "notebooks" / book.name, book)
    notebooks_page.run(book, tmp_path)  # its own assertions are cells
    printed = notebooks_page.page(book)
    assert {"distil": "kd   perplexity", "dial": "strength  0.0"}[name] in printed
