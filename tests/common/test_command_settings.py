"""Settings of commands: flags, words and files fill one class, and each mistake is one line."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from trimtab.common.settings import Bare, CommandSettings, SettingsError, Shown, parse, with_values


class PaintSettings(CommandSettings):
    positional = ("source", "more")
    words: ClassVar[str] = "SOURCE [KEY=VALUE]..."
    source: str
    more: tuple[str, ...] = ()
    model: str | None = None
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    how: Literal["thick", "thin"] = "thick"
    max_width: float = 1.0
    dry: bool = False
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def rivals(cls, key, given, plain):
        return ["brush.limit"] if key == "limit" else ["brush.hair"] if key == "hair" else []


def read(*words: str, **flags: Any) -> Any:
    return parse(PaintSettings, flags, words)


def test_flags_words_and_a_file_fill_the_same_fields(tmp_path):
    file = tmp_path / "paint.yaml"
    file.write_text("source: a.jsonl\nlimit: 3\nhow: thin\nbrush: {hair: 2, kind: flat}\nbrush2.hair: 5\n")
    by_file = read(config=str(file))
    by_words = read("a.jsonl", "how=thin", "brush.hair=2", "brush.kind=flat", "brush2.hair=5", limit="3")
    assert by_file == by_words == PaintSettings(
        source="a.jsonl", limit=3, how="thin", options={"brush": {"hair": 2, "kind": "flat"}, "brush2": {"hair": 5}}
    )  # fmt: skip
    over = read("how=thick", config=str(file), limit="7")
    assert (over.how, over.limit, over.source) == ("thick", 7, "a.jsonl")


def test_words_are_yaml_save_where_the_field_is_a_text():
    found = read("a", "b", "c", "model=123", "max-width=1e-3", "dry=true")
    assert (found.more, found.model, found.max_width, found.dry) == (("b", "c"), "123", 1e-3, True)
    assert read("a", "model=null").model is None


def test_a_file_whose_name_holds_a_sign_is_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data=v2.jsonl").write_text("")
    assert read("data=v2.jsonl").source == "data=v2.jsonl"


@pytest.mark.parametrize(
    ("words", "flags", "message"),
    [
        ([], {}, "SOURCE is missing"),
        (["a", "limt=3"], {}, "unknown setting 'limt'; did you mean 'limit'?"),
        (["a", "how=fat"], {}, "how is 'fat'; it must be 'thick' or 'thin'"),
        (["a"], {"how": "fat"}, "--how is 'fat'; it must be 'thick' or 'thin'"),
        (["a", "max-width=x"], {}, "max-width is 'x'; it must be a number"),
        (["a", "how=thin"], {"how": "thin"}, "how is given twice, as --how and as how=; give it once"),
        (["a", "how=thin", "how=thick"], {}, "how is given twice"),
        (["a", "limit=3"], {}, "limit could mean --limit or brush.limit; write one of them"),
        (["a", "hair=3"], {}, "unknown setting 'hair'; did you mean 'brush.hair'?"),
        (["a", "brush.hair=1", "brush.hair=2"], {}, "brush.hair is given twice"),
        (["a"], {"config": "nowhere.yaml"}, "there is no file nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line(words, flags, message):
    with pytest.raises(ValueError) as raised:
        read(*words, **flags)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "holds a list, expected keys and values"),
        ("source: [\n", "is not valid YAML"),
        ("source: a\nsource: b\n", "occurs twice"),
        ("source: a\nlimt: 3\n", "did you mean 'limit'?"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path, text, message):
    file = tmp_path / "paint.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message.replace("?", r"\?")):
        read(config=str(file))


def test_in_python_a_mistake_is_the_same_line():
    with pytest.raises(SettingsError, match="^--limit is 0; it must be at least 1$"):
        PaintSettings(source="a", limit=0)
    with pytest.raises(SettingsError, match="^unknown setting 'limt'; did you mean 'limit'"):
        PaintSettings(source="a", limt=3)


class Shared(CommandSettings):
    on: Annotated[str | None, Bare("here", "[a-z]+:[0-9]+")] = None


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--on"], ["--on", "here"]),
        (["--on", "rows.jsonl"], ["--on", "here", "rows.jsonl"]),
        (["--on", "--out", "x"], ["--on", "here", "--out", "x"]),
        (["--on", "head:6379", "rows.jsonl"], ["--on", "head:6379", "rows.jsonl"]),
        (["--on=other", "rows.jsonl"], ["--on=other", "rows.jsonl"]),
        (["rows.jsonl"], ["rows.jsonl"]),
    ],
)
def test_a_flag_that_is_given_alone_has_its_value_and_takes_no_other_word(words, found):
    assert with_values(Shared, words) == found
