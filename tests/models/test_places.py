"""A name is a builtin, a folder, or a repository with a revision; what it cannot be is said."""

import pytest

import tiny_folder
from trimtab.models.builtin import ModelNotFound
from trimtab.models.loading import load_config, load_model, load_tokenizer
from trimtab.models.places import Place, place_of


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("owner/model", Place("owner/model")),
        ("model", Place("model")),
        ("owner/model@v1.0", Place("owner/model", "v1.0")),
        ("owner/model@refs/pr/3", Place("owner/model", "refs/pr/3")),
        ("owner/model@a@b", Place("owner/model", "a@b")),
    ],
)
def test_what_follows_an_at_is_the_revision_of_a_repository(name, place):
    assert place_of(name) == place
    assert place.named() == name


def test_a_folder_may_have_an_at_in_its_name(tmp_path, monkeypatch):
    name = tiny_folder.save(tmp_path / "runs@night" / "model@2")
    assert place_of(name) == Place(name)
    monkeypatch.chdir(tmp_path / "runs@night")
    assert place_of("model@2") == Place("model@2")
    assert load_model("model@2").config.vocab_size == tiny_folder.VOCAB
    load_tokenizer("model@2")


@pytest.mark.parametrize("name", ["owner/model@", "@main", "characters-1m@main"])
def test_what_names_no_revision_is_reported(name):
    with pytest.raises(ModelNotFound, match="revision"):
        place_of(name)


def test_a_folder_has_no_revisions(tmp_path, monkeypatch):
    tiny_folder.save(tmp_path / "mine" / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="is a folder, which has no revisions"):
        place_of("mine/model@main")
    with pytest.raises(ModelNotFound, match="there is no folder ./mine/model@main"):
        place_of("./mine/model@main")


def test_the_revision_reaches_the_cache_of_the_hub(tmp_path, monkeypatch):
    """Two revisions of one repository, as the hub's client lays them out."""
    root = tmp_path / "models--owner--model"
    for revision, width in (("a" * 40, 16), ("b" * 40, 32)):
        tiny_folder.save(root / "snapshots" / revision, hidden_size=width)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    (root / "refs" / "wide").write_text("b" * 40)
    for module in ("huggingface_hub.constants", "transformers.utils.hub", "huggingface_hub.file_download"):
        for constant in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE", "default_cache_path"):
            monkeypatch.setattr(f"{module}.{constant}", str(tmp_path), raising=False)
    assert load_config("owner/model").hidden_size == 16
    assert load_config("owner/model@wide").hidden_size == 32
    assert load_model("owner/model@" + "b" * 40).config.hidden_size == 32
    assert load_tokenizer("owner/model@wide").get_vocab() == tiny_folder.byte_tokenizer().get_vocab()
    with pytest.raises(ModelNotFound, match="could not load the model 'owner/model@nonesuch'"):
        load_config("owner/model@nonesuch")
