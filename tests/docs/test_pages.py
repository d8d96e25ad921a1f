"""The pages hold: links lead somewhere, commands parse, code runs as it stands, the worked example passes its tests.

A comment before a block says what is special about it: `<!-- not run: reason -->` for code that is no program, and
`<!-- file: path, ... -->` for a file that the reader is asked to make, in one place or several. Such files are laid out
before the page is tried.
"""

import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from trimtab import cli, methods
from trimtab.common import settings
from trimtab.runs import parse, shipped

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
FENCE = re.compile(r"^(`{3,})(\w*)(?: title=\"[^\"]*\")?\s*$")
COMMENT = re.compile(r"^<!-- (not run|file): (.+) -->$")
GENERATED = (
    "papers_page",
    "recipe_page",
    "training_page",
    "recipes_page",
    "cli_page",
    "python_page",
    "rows_page",
    "edits_page",
    pytest.param("memory_page", marks=pytest.mark.slow),
    "figure",
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL = ("|", "||", "&&", ";", ">", ">>", "&")


@dataclass(frozen=True)
class Block:
    """Code on a page."""

    line: int
    language: str
    text: str
    kind: str = ""
    """"file", "not run" or "" """
    note: str = ""
    """the path of the file, or the reason"""


def read(page: Path) -> tuple[str, list[Block]]:
    """A page's prose, and its blocks of code."""
    prose, blocks, inside = [], [], None
    special = ("", "")
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence = FENCE.match(line)
        if inside is not None:
            if fence and fence[1] == inside[0] and not fence[2]:
                blocks.append(Block(inside[2], inside[1], "\n".join(lines[inside[2] : number - 1]) + "\n", *special))
                inside, special = None, ("", "")
        elif fence:
            inside = (fence[1], fence[2], number)
        else:
            prose.append(line)
            comment = COMMENT.match(line.strip())
            special = (comment[1], comment[2]) if comment else special if not line.strip() else ("", "")
    assert inside is None, f"{page.name}:{inside[2]}: the block has no end"
    return "\n".join(prose), blocks


def code(page: Path, *languages: str) -> list[Block]:
    return [block for block in read(page)[1] if block.language in languages and not block.kind]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(place, words) of every line that calls trimtab."""
    for block in code(page, "bash", "sh", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("trimtab "):
                words = shlex.split(line, comments=True)
                end = next((i for i, word in enumerate(words) if word in SHELL), len(words))
                yield f"{page.name}: {line}", words[1:end]


def ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def pages_with(*languages: str) -> pytest.MarkDecorator:
    found = [page for page in PAGES if code(page, *languages)]
    return pytest.mark.parametrize("page", found, ids=ids(found))


@pytest.fixture
def reader(page, tmp_path, monkeypatch) -> Iterator[list[str]]:
    """An empty folder to work in, with the files that the page asks for, as if they lay in the project.

    Gives the names of the methods among them.
    """
    monkeypatch.chdir(tmp_path)
    files = [block for block in read(page)[1] if block.kind == "file"]
    folder, recipes = tmp_path / "src" / "trimtab" / "methods", tmp_path / "recipes"
    if files:
        shutil.copytree(methods._FILES.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(shipped.recipe_folder(), recipes)
        monkeypatch.setattr(methods._FILES, "folder", folder)
        monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
        monkeypatch.setattr(shipped, "recipe_folder", lambda: recipes)
    before = set(methods.names())
    for path, text in [(tmp_path / place, block.text) for block in files for place in block.note.split(", ")]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    new = sorted(set(methods.names()) - before)
    yield new
    for name in new:
        sys.modules.pop(f"trimtab.methods.{name}", None)
        vars(methods).pop(name, None)


@pytest.fixture
def trimtab(monkeypatch, capsys):
    def call(words: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, err or out

    return call


def load(path: Path, name: str):
    """A module from a file that lies in no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_what_its_script_writes(name):
    script = load(ROOT / "scripts" / f"{name}.py", name)
    text = (script.picture if name == "figure" else script.page)()
    assert script.PAGE.read_text(encoding="utf-8") == text, f"run: python scripts/{name}.py"


def test_the_pages_of_the_notebooks_are_what_their_script_writes():
    script = load(ROOT / "scripts" / "notebooks_page.py", "notebooks_page")
    books = sorted(script.FOLDER.glob("*.ipynb"))
    assert [book.stem for book in books] == ["dial", "distil"]
    for book in books:
        assert book.with_suffix(".md").read_text(encoding="utf-8") == script.page(book), "run: make pages"


def test_each_paper_that_a_method_names_has_a_link_of_its_own():
    text = load(ROOT / "scripts" / "papers_page.py", "papers_page").PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"\]\([^)]*\s", text)
    for number in ("1707.06347", "2505.23363", "2604.13197"):
        assert f"[arXiv:{number}](https://arxiv.org/abs/{number})" in text


def test_a_stale_page_is_told_by_the_exit_code(tmp_path, monkeypatch, capsys):
    pages = load(ROOT / "scripts" / "pages.py", "pages_")
    page = tmp_path / "methods.md"

    def status(text: str, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["papers_page.py", *words])
        return pages.command(page, lambda: text, "scripts/papers_page.py")

    assert status("one", "--check") == 1
    assert "methods.md is stale; write it anew with: python scripts/papers_page.py" in capsys.readouterr().err
    assert status("one") == 0
    assert status("one", "--check") == 0
    assert status("two", "--check") == 1
    assert page.read_text() == "one"


def test_a_bar_in_a_cell_ends_no_cell_and_loses_no_text():
    pages = load(ROOT / "scripts" / "pages.py", "pages_")
    line = pages.table(("a",), [("KL(p || q) and `x | y`",)]).splitlines()[-1]
    assert line == "| KL(p &#124;&#124; q) and <code>x &#124; y</code> |"


def test_the_page_of_rows_leads_to_its_own_headings_and_shows_no_folder_of_the_machine():
    script = load(ROOT / "scripts" / "rows_page.py", "rows_page")
    prose, blocks = read(script.PAGE)
    headings = {script.anchor(title) for title in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}
    assert {link[1:] for link in LINK.findall(prose) if link.startswith("#")} <= headings
    assert not [block for block in blocks if "/tmp" in block.text or "Traceback" in block.text]


def test_a_remark_that_no_rule_shows_is_missed(monkeypatch):
    script = load(ROOT / "scripts" / "rows_page.py", "rows_page")
    monkeypatch.setattr(script, "RULES", {"Turns": script.RULES["Turns"]})
    with pytest.raises(AssertionError, match="no rule shows the remarks blank, calls, copies, cut_answer"):
        script.page()


def test_a_verdict_is_that_of_the_interval():
    judged = load(ROOT / "scripts" / "results.py", "results_").judged
    assert judged([0.2, 0.1, 0.3]) == ("reproduced", "+0.200 [+0.100, +0.300]")
    assert judged([0.2, 0.1, 0.3], "nats", swap=True) == ("the contrary", "-0.200 [-0.300, -0.100] nats")
    assert judged([0.1, -0.1, 0.3])[0] == "not shown"


def test_a_verdict_of_a_series_is_that_of_its_order():
    monotone = load(ROOT / "scripts" / "results.py", "results_").monotone
    assert monotone([1.0, 2.0, 3.0], rising=True) == ("reproduced", "1.00, 2.00, 3.00")
    assert monotone([1.0, 2.0, 1.9], rising=True)[0] == "not shown"
    assert monotone([1.0, 2.0, 3.0], rising=False)[0] == "not shown"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_relative_links_lead_to_files_and_those_of_the_site_stay_in_it(page):
    links = [link.partition("#")[0] for link in LINK.findall(read(page)[0]) if not re.match(r"\w+:", link)]
    targets = [(page.parent / link).resolve() for link in links if link]
    assert not [target for target in targets if not target.exists()]
    if page.is_relative_to(ROOT / "docs"):
        assert not [target for target in targets if not target.is_relative_to(ROOT / "docs")]


@pages_with("bash", "sh", "console")
def test_commands_parse_and_name_what_is_there(page, reader, trimtab):
    known = typer.main.get_command(cli.app).commands
    for place, (name, *words) in commands(page):
        if name.startswith("-") or "--help" in words or name in ("list", "show"):
            status, said = trimtab([name, *words])
        else:  # the recipe is read and checked; rows and models of it need not be there
            name, words = cli.named([name, *words])
            flags = known[name].make_context(name, list(words)).params
            module = importlib.import_module(f"trimtab.commands.{cli.COMMANDS[name]}")
            given = settings.parse(module.SETTINGS, flags, flags.pop("words", None) or [])
            status, said = 0, ""
            if hasattr(given, "recipe"):
                parse.load_recipe(given.recipe, given.overrides)
        assert status == 0, f"{place}\n{said}"


@pages_with("python")
def test_code_runs_as_it_stands(page, reader):
    for block in code(page, "python"):
        # so many empty lines before that a traceback shows the line of the page
        exec(compile("\n" * block.line + block.text, str(page), "exec"), {"__name__": "__page__"})


@pytest.mark.parametrize("page", [ROOT / "docs" / "add_a_method.md"], ids=["add_a_method"])
def test_the_worked_example_passes_its_own_tests_and_the_contract_battery(page, reader, tmp_path, monkeypatch):
    assert reader, "the page adds no method"
    for name in reader:
        own = load(tmp_path / "tests" / "methods" / f"test_{name}.py", f"test_{name}")
        battery = load(ROOT / "tests" / "contract" / "test_methods.py", "contract_battery")
        monkeypatch.setattr(battery, "ROOT", tmp_path)
        ran = 0
        for test in [
            test for module in (own, battery) for key, test in vars(module).items() if key.startswith("test_")
        ]:
            wants = set(inspect.signature(test).parameters)
            if wants <= {"name", "monkeypatch"}:
                with pytest.MonkeyPatch.context() as patch:
                    test(**{key: value for key, value in {"name": name, "monkeypatch": patch}.items() if key in wants})
                ran += 1
        assert ran >= 15
