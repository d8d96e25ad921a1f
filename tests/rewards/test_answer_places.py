"""Where the answer of a rationale stands: by value, alone, in the last sentence that says it."""

import pytest

from trimtab.rewards.places import place_of_answer

ABC = ["a red fox", "a blue bird", "a cat"]


@pytest.mark.parametrize(
    "text, answer",
    [
        ("He starts with 3, adds 4. Therefore, the answer is |7|", "7"),
        ("7 is seven. The answer is |7|. He had 7 before.", "7"),
        ("The answer is |7.0|.", "7"),
        ("The answer is |7|.", "7.0"),
        ("The answer is |7|.", 7),
        ("The answer is $|1,200|.", "$1200"),
        ("The answer is |1200|", "1,200"),
        ("The answer is 17.", "7"),
        ("The answer is 7.5.", "7"),
        ("The answer is |-3|", "-3"),
        ("the answer is |8|, since 4 + 4 = 8", "8"),
        ("3 + 4 = |7|", "7"),
        ("So 3 + 4 makes |7|", "7"),
        ("So 7 and 3 are left. So 10 - 3 = |7|\nNice.", "7"),
        ("So 10 - 3 = 8. It was 7 before.", "7"),
        ("3 + 4 = 7\n#### |7|", "7"),
        ("3 + 4 = 7\n#### |7|", "three and four\n#### 7"),
        (r"Then \boxed{|7|} pens remain, not 8.", "7"),
        (r"\boxed{|\frac{1}{2}|}", r"\frac{1}{2}"),
        ("The answer is not 7. It is 8.", "7"),
        ("Therefore the answer is |no|.", "No"),
        ("The answer is nothing.", "no"),
        ("The answer is (|B|).", "B"),
        ("The answer is (|b|) a bird", "B"),
        ("The answer is a pity.", "A"),
        ("答案是|七|。很好", "七"),
        ("", "7"),
        (" \n", "7"),
        ("The answer is ", "7"),
    ],
)  # fmt: skip
def test_it_is_found_in_the_last_sentence_that_states_it(text, answer):
    start, bar, rest = text.partition("|")
    inside, _, behind = rest.partition("|")
    place = place_of_answer(start + inside + behind, answer)
    assert place == ((len(start), len(start) + len(inside)) if bar else None)


@pytest.mark.parametrize("answer", ["B", 1, "a blue bird"])
@pytest.mark.parametrize("text, said", [("So the answer is B.", "B"), ("The answer is a blue bird", "a blue bird")])
def test_an_option_is_found_by_its_letter_or_its_text(text, said, answer):
    start, end = place_of_answer(text, answer, ABC)
    assert text[start:end] == said
