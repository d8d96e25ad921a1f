"""Roles folders: what they may hold, what is refused with which reason, and how they are made of runs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import tiny_agent
import tiny_folder
from trimtab.agents.loop import Agent
from trimtab.agents.making import make_roles, roles_of_stages
from trimtab.agents.roles import load_roles, read_roles
from trimtab.agents.speakers import EndpointSpeaker, RolesError

HOW = {"max_new_tokens": 8, "temperature": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_agent.roles_folder(tmp_path_factory.mktemp("agent") / "roles")


@pytest.fixture
def folder(files, tmp_path):
    return shutil.copytree(files, tmp_path / "roles")


def name_base(adapter, base):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


def run_of(files, folder, role, agent=True, parts=("adapter", "model")):
    """What a finished run leaves."""
    tree = {"method": "sft", "data": {"train": "x", **({"agent": {"role": role, "templates": {}}} if agent else {})}}
    folder.mkdir()
    for part in parts:
        shutil.copytree(files / (role if part == "adapter" else "base"), folder / part)
        if part == "adapter":
            name_base(folder / part, str(files / "base"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return str(folder)


def runs_of(files, folder, **how):
    return {role: run_of(files, folder / role, role, **how) for role in ("planner", "caller", "summarizer")}


def test_one_base_with_three_adapters_works_on_a_task(files):
    roles = load_roles(files)
    assert {speaker.adapter for speaker in roles.speakers.values()} == {"planner", "caller", "summarizer"}
    assert roles.prompter.end == "<|end|>"
    result = Agent(roles, tiny_agent.Tools(), max_steps=2, max_new_tokens=8).run("Weather?")
    assert result.ended == "steps"
    assert result.tokens["planner"].reused > 0
    assert result.tokens["caller"].reused > result.tokens["caller"].read / 2


def test_three_whole_models_and_one_model_that_plays_all(folder):
    for name, seed in (("planner", 5), ("caller", 6), ("summarizer", 7)):
        shutil.rmtree(folder / name)
        tiny_folder.save(folder / name, seed=seed, max_position_embeddings=2048)
    roles = load_roles(tiny_agent.write_roles(folder, base=None))
    assert len({id(one.owner) for one in roles.speakers.values()}) == 3
    for kind, number in (("all", 3), ("backbone", 1)):
        roles = load_roles(tiny_agent.write_roles(folder, base=None, roles={kind: "base"}))
        assert len(roles.speakers) == number
        assert len({id(one.owner) for one in roles.speakers.values()}) == 1
        assert roles.single == (kind == "backbone")
        assert Agent(roles, tiny_agent.Tools(), max_steps=1, max_new_tokens=8).run("Weather?").ended == "steps"


def test_a_role_may_be_on_a_server_and_reads_the_end_token_of_the_others(folder):
    roles = {"planner": "planner", "caller": "caller", "summarizer": "http://127.0.0.1:1/v1#big"}
    made = load_roles(tiny_agent.write_roles(folder, roles=roles))
    assert made.speakers["summarizer"] == EndpointSpeaker("http://127.0.0.1:1/v1", "big", "<|end|>")
    everywhere = dict.fromkeys(roles, "http://127.0.0.1:1/v1#big")
    made = load_roles(tiny_agent.write_roles(folder, roles=everywhere, base=None, end="<stop>"))
    assert made.prompter.end == "<stop>"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "is of version 2, and this trimtab reads version 1; make the folder again"),
        ({"version": None}, "is of version None"),
        ({"bsae": "x"}, "has the key 'bsae'; did you mean 'base'?"),
        ({"format": "chat"}, "format is 'chat', and only 'text' is known"),
        ({"roles": {"planner": "planner"}}, "roles must name planner, caller and summarizer, or backbone, or all"),
        ({"roles": {"backbone": 3}}, "roles must name"),
        ({"base": 3}, "base is 3"),
        ({"templates": {"planner": "x"}}, "templates.planner must be a text with a place for {history}"),
    ],
)
def test_a_file_that_is_none_is_refused(folder, changes, said):
    with pytest.raises(RolesError, match=said):
        read_roles(tiny_agent.write_roles(folder, **changes))


def test_a_folder_without_the_file_says_how_to_make_one(tmp_path):
    with pytest.raises(RolesError, match="holds no roles.json; make a roles folder of finished runs: trimtab agent"):
        load_roles(tmp_path)
    (tmp_path / "roles.json").write_text("{")
    with pytest.raises(RolesError, match="roles.json"):
        load_roles(tmp_path)


def test_an_adapter_of_another_base_is_refused(folder):
    tiny_folder.save(folder / "other", seed=9)
    shutil.rmtree(folder / "caller")
    tiny_agent.save_adapter(folder / "caller", str(folder / "other"), 2)
    with pytest.raises(RolesError, match=r"the caller is an adapter of .*other, and roles.json is of .*base"):
        load_roles(folder)
    given = {role: str(folder / role) for role in ("planner", "caller", "summarizer")}
    with pytest.raises(RolesError, match="the caller is an adapter of .*other, and the planner is of"):
        make_roles(folder / "out", given)
    assert not (folder / "out").exists()


def test_an_adapter_that_does_not_fit_is_refused(folder):
    tiny_folder.save(folder / "base", max_position_embeddings=2048, num_hidden_layers=2)
    with pytest.raises(RolesError, match="planner does not fit .*base"):
        load_roles(folder)


def test_roles_of_different_tokenizers_and_without_an_end_token_are_refused(folder):
    roles = {"planner": "planner", "caller": "caller", "summarizer": "other"}
    tiny_folder.save(folder / "other", max_position_embeddings=2048)
    other = tiny_folder.byte_tokenizer()
    other.eos_token = "<|user|>"
    other.save_pretrained(folder / "other")
    with pytest.raises(RolesError, match=r"the summarizer ends its turns with '<\|user\|>' and the planner with"):
        load_roles(tiny_agent.write_roles(folder, roles=roles))
    kept = json.loads((folder / "other" / "tokenizer_config.json").read_text())
    kept.pop("eos_token")
    (folder / "other" / "tokenizer_config.json").write_text(json.dumps(kept))
    with pytest.raises(RolesError, match=r"the tokenizer of the summarizer .* has no end token"):
        load_roles(folder)
    import tiny

    tiny.tokenizer(["<unk>", "a"]).save_pretrained(folder / "words")
    words = tiny.tokenizer(["<unk>", "a", "</s>"])
    words.eos_token = "</s>"
    for path in (folder / "other").glob("*token*"):
        path.unlink()
    words.save_pretrained(folder / "other")
    with pytest.raises(RolesError, match="need one tokenizer: planner and summarizer have different tokenizers"):
        load_roles(folder)


# ---------------------------------------------------------------- made of runs


def test_adapters_of_runs_are_put_beside_each_other_with_the_name_of_their_base(files, tmp_path):
    notes = make_roles(tmp_path / "out", runs_of(files, tmp_path))
    base = (files / "base").resolve()
    assert notes == [f"{role}: an adapter on {base}" for role in ("planner", "caller", "summarizer")]
    kept = json.loads((tmp_path / "out" / "roles.json").read_text())
    assert kept["base"] == str((files / "base").resolve())
    assert kept["roles"] == {role: role for role in ("planner", "caller", "summarizer")}
    one, other = (load_roles(folder).speakers["caller"].write("user: x", **HOW) for folder in (files, tmp_path / "out"))
    assert one.text == other.text


def test_a_copy_holds_all_that_it_needs(files, tmp_path):
    moved = shutil.copytree(files, tmp_path / "once" / "roles")
    make_roles(tmp_path / "out", {role: str(moved / role) for role in ("planner", "caller", "summarizer")}, copy=True)
    shutil.rmtree(tmp_path / "once")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    folders = (files, tmp_path / "elsewhere")
    one, other = (load_roles(folder).speakers["caller"].write("user: x", **HOW) for folder in folders)
    assert one.text == other.text


def test_merged_models_are_named_or_copied(files, tmp_path):
    runs = runs_of(files, tmp_path)
    make_roles(tmp_path / "out", runs, whole=True)
    kept = json.loads((tmp_path / "out" / "roles.json").read_text())
    assert kept["base"] is None
    assert kept["roles"]["caller"] == str((tmp_path / "caller" / "model").resolve())
    single = run_of(files, tmp_path / "one", "backbone", parts=("model",))
    make_roles(tmp_path / "copied", {"backbone": single}, copy=True)
    assert (tmp_path / "copied" / "backbone" / "config.json").is_file()
    assert load_roles(tmp_path / "copied").single


def test_templates_of_a_run_go_with_it(files, tmp_path):
    run = run_of(files, tmp_path / "run", "backbone", parts=("model",))
    tree = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    tree["data"]["agent"]["templates"] = {"backbone": "Do: {history}"}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(tree))
    make_roles(tmp_path / "out", {"backbone": run})
    assert read_roles(tmp_path / "out").templates == {"backbone": "Do: {history}"}


def test_what_makes_no_roles_folder_is_refused_and_leaves_nothing(files, tmp_path):
    runs = runs_of(files, tmp_path)
    cases = [
        ({"planner": runs["planner"]}, "has --planner, --caller and --summarizer"),
        ({**runs, "caller": runs["planner"]}, "was trained as planner; give it as --planner"),
        ({**runs, "caller": run_of(files, tmp_path / "x", "caller", parts=())}, "a run without a finished model"),
        ({**runs, "caller": "http://host/v1"}, "written as http://HOST/v1#MODEL"),
    ]
    for given, said in cases:
        with pytest.raises(RolesError, match=said):
            make_roles(tmp_path / "out", given)
        assert not list(tmp_path.glob("out*"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(RolesError, match="full exists; choose another folder"):
        make_roles(tmp_path / "full", runs)
    note, *_ = make_roles(tmp_path / "out", {**runs, "caller": run_of(files, tmp_path / "y", "caller", agent=False)})
    assert "was not trained by data.agent, so that it may not know what a caller writes" in note


def stages_of(folder, **roles):
    for name, role in roles.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "recipe.yaml").write_text(yaml.safe_dump({"data": {"agent": role}}))
    return folder


def test_the_stages_of_a_run_are_its_roles(tmp_path):
    run = stages_of(tmp_path / "run", first="backbone", plan="planner", call="caller", tell="summarizer", sft=None)
    names = {"planner": "plan", "caller": "call", "summarizer": "tell"}
    assert roles_of_stages(run, {}) == {role: str(run / name) for role, name in names.items()}
    other = roles_of_stages(run, {"summarizer": "http://h/v1#m"})
    assert other == {"planner": str(run / "plan"), "caller": str(run / "call"), "summarizer": "http://h/v1#m"}
    assert roles_of_stages(run, {"backbone": "mine"}) == {"backbone": "mine"}
    alone = stages_of(tmp_path / "alone", one="backbone", plan="planner")
    assert roles_of_stages(alone, {}) == {"backbone": str(alone / "one")}


def test_stages_that_leave_a_role_open_are_refused(tmp_path):
    run = stages_of(tmp_path / "run", plan="planner", call="caller", again="caller")
    with pytest.raises(RolesError, match="there are stages for caller, planner; a roles folder needs"):
        roles_of_stages(run, {})
    with pytest.raises(RolesError, match="again and .*call are both caller; name one by --caller"):
        roles_of_stages(run, {"summarizer": "mine"})
    assert roles_of_stages(run, {"summarizer": "mine", "caller": "own"})["caller"] == "own"
    with pytest.raises(RolesError, match="there are stages for no role of an agent"):
        roles_of_stages(stages_of(tmp_path / "none", sft=None), {})
    with pytest.raises(RolesError, match=r"--stages nowhere is no folder \(looked for in"):
        roles_of_stages(Path("nowhere"), {})
