"""The options of a multiple-choice row: their letters, and which of them are correct."""

from typing import Any

from trimtab.common.errors import UserError


class OptionsError(UserError):
    """Options or an answer that cannot be parsed; the message says which."""


def lettered(options: Any) -> dict[str, str]:
    """Options as letter -> text: a mapping stays, a list gets A, B, C, ...

    Raises:
        OptionsError: if they are neither, or fewer than two, or not all different; or if one is not a text, or is
            null, which is only allowed in a mapping, for a missing option.
    """
    if isinstance(options, dict):
        given = {str(letter): text for letter, text in options.items() if text is not None}
    elif isinstance(options, (list, tuple)) and len(options) <= 26:
        given = {chr(ord("A") + i): text for i, text in enumerate(options)}
    else:
        raise OptionsError(f"options are {options!r:.60}; expected up to 26 in a list, or letter: text")
    for letter, text in given.items():
        if not isinstance(text, (str, int, float)):
            kind = "null" if text is None else f"a {type(text).__name__}"
            raise OptionsError(f"option {letter} is {kind}; expected a text or a number")
    found = {letter: str(text) for letter, text in given.items()}
    if len(set(found.values())) < max(2, len(found)):
        raise OptionsError(f"options {list(found.values())!r:.80} must be two or more different texts")
    return found


def correct(options: dict[str, str], answer: Any) -> tuple[str, ...]:
    """Letters of the correct options.

    Args:
        options: letter -> text.
        answer: an index from 0, a letter, a text of an option (a number as text is first an option's text, then an
            index), or a list of these.

    Raises:
        OptionsError: if it is none of them, or a letter that is also the text of another option.
    """
    if isinstance(answer, (list, tuple)):
        return tuple(dict.fromkeys(letter for one in answer for letter in correct(options, one)))
    by_text = {text: letter for letter, text in options.items()}
    found = list(options)
    if isinstance(answer, (int, float)) and not isinstance(answer, bool) and answer == int(answer):
        if 0 <= answer < len(found):
            return (found[int(answer)],)
    elif isinstance(answer, str):
        word = answer.strip()
        if word in options and by_text.get(word, word) != word:
            raise OptionsError(
                f"answer {word!r} is a letter and also the text of option {by_text[word]}; give an index"
            )
        if word in options or word in by_text:
            return (word if word in options else by_text[word],)
        if word.isdigit() and int(word) < len(found):
            return (found[int(word)],)
    raise OptionsError(
        f"answer {answer!r:.60} is not one of the options; give an index from 0 to {len(found) - 1}, a letter of "
        f"{', '.join(found)}, or an option's text"
    )
