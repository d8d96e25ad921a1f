"""Different ways to write the same small thing, as one: units, amounts, numbers in words, negations, duties, bounds.

English. What is equal here is equal in any sentence; the rules of `protected` and `wording` compare what comes out.
"""

import re

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_ONES = _WORDS.split()
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = dict(zip(_TENS_WORDS.split(), range(20, 100, 10)))
VALUES = {word: value for value, word in enumerate(_ONES)} | _TENS
_DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
_LARGEST = "largest|greatest|highest|biggest|maximum"
_SMALLEST = "smallest|lowest|minimum"

_SHORT = {
    r"\bcan['’]t\b|\bcannot\b": "can not",
    r"\bwon['’]t\b": "will not",
    r"\bshan['’]t\b": "shall not",
    r"(?<=\w)n['’]t\b": " not",
    r"\b(who|what|when|where|how|why|it|he|she|that|there)['’]s "
    r"(?=(?:the|a|an|of|in|at|on|to|not|it|her|his)\b)": r"\1 is ",
}
_UNITS = {
    r"°\s?C\b": " degrees Celsius",
    r"°\s?F\b": " degrees Fahrenheit",
    r"\b(degrees) (?:C|centigrade)\b": r"\1 Celsius",
    r"\b(degrees) F\b": r"\1 Fahrenheit",
    r"\bmph\b": "miles per hour",
    r"\b(?:km/h|kmh|kph)(?!\w)": "kilometers per hour",
    r"\bm/s(?!\w|\^|²)": "meters per second",
    r"(?<=\d)[  ]?(?:km|kilometre)s?\b": " kilometers",
    r"(?<=\d)[  ]?(?:kg|kilo|kilogramme)s?\b": " kilograms",
    r"(?<=\d)[  ]?(?:cm|centimetre)s?\b": " centimeters",
    r"(?<=\d)[  ]?(?:mm|millimetre)s?\b": " millimeters",
    r"(?<=\d)[  ]?(?:m|metre)\b": " meters",
    r"(?<=\d)[  ]?(?:ml|millilitre)s?\b": " milliliters",
    r"(?<=\d)[  ]?(?:L|litres?)\b": " liters",
    r"(?<=\d)[  ]?(?:hrs?)\b": " hours",
    r"(?<=\d)[  ]?(?:min|mins)\b": " minutes",
    r"(?<=\d)[  ]?(?:lbs?)\b": " pounds",
    r"(?<=\d)[  ]?(?:ft)\b": " feet",
    r"(?<=\d)\s?(?:%|per ?cent\b)": " percent",
    rf"\$\s?({_DIGITS})(?![\d,.]*\$)": r"\1 dollars",
    rf"€\s?({_DIGITS})": r"\1 euros",
    rf"£\s?({_DIGITS})": r"\1 quid",
    r"\b(\d+)[- ](dollar|euro|mile|meter|kilometer|hour|minute|day|week|month|year|kilogram|foot)\b"
    r"(?=[- ](?!is\b|of\b))": r"\1 \2s",
    r"\b(dollars?|euros?|cents?|meters?|kilometers?|miles?|pages?|liters?|times?|words?) an? "
    r"(?=(?:second|minute|hour|day|week|month|year)\b)": r"\1 per ",
    r"(?<=\d) (?:an?) (?=(?:second|minute|hour|day|week|month|year)\b)": " per ",
}
_SAYINGS = {
    r"\b(?:(?:am|is|are|was|were|be|been|being) )?(?:unable|not able) to\b": "can not",
    r"\b(?:am|is|are|was|were) able to\b": "can",
    r"\bno one\b": "nobody",
    r"\bnot? (?:more|greater|larger|higher) than\b": "at most",
    r"\bnot? (?:less|fewer|smaller|lower) than\b": "at least",
    r"\bat (?:the )?(?:very )?(least|most)\b": r"at \1",
    r"\bonly (?:a )?few\b": "few",
    r"(?<!quite )\ba few\b": "some",
    r"\b(?:do|does|did) not (?:have|need) to\b|\bnot (?:required|obliged) to\b": "need not",
    r"\b(?:(?:is|are|was|were|am|be) )?(?:required|obliged) to\b": "must",
    r"\b(?:ha[sd]|have) to\b": "must",
    r"\b(greater|more|larger|higher) than or equal to\b": "at least",
    r"\b(less|fewer|smaller|lower) than or equal to\b": "at most",
    r"\b(?:the|these) ([a-z]+) (?:(?:given|listed|shown) )?below\b(?! (?:the|an?|\d))": r"the following \1",
    r"\b(?:larg|bigg|great)est (?=[a-z]{3,}(?:er|or)s? of\b)": "most ",
    r"\bsmallest (?=[a-z]{3,}(?:er|or)s? of\b)": "least ",
    r"\bat the same time\b|\bsimultaneously\b": "simultaneously",
    r"\b(?:over|in|during|throughout) the course of\b": "over",
    r"\b(which|what) ([a-z]+) below\b": r"\1 \2",
    r"\b(?:what|which) role (?:do|does|did|is|are) (.+?) play(?:ed)?\b": r"what is the role of \1",
    r"\b(?:draw|draws|drew|drawn|make|makes|made|reach|reached) (?:a |an |the )?(?=conclusion|inference|decision)": "",
    r"\b(?:is|are|was|were) responsible for\b": "",
    r"\b([a-z]+) (?:given|listed|shown|mentioned) (?:below|above|here)\b": r"\1",
    r"\bin order to\b": "to",
    r"\bper (?=(?:second|minute|hour|day|week|month|year)\b)": "every ",
    r"\bdaily\b": "every day",
    r"\bweekly\b": "every week",
    r"\bmonthly\b": "every month",
    r"\b(?:yearly|annually)\b": "every year",
    r"\b(protect\w*|shield\w*|guard\w*|defen[ds]\w*|insulat\w*)([^.?!,]*?) against\b": r"\1\2 from",
    r"(?:(?<=^)|(?<=[.?!,] )|(?<=[a-z] ))once (?=(?:the|an?|he|she|it|they|we|you|his|her|its|their|all)\b)": "after ",
    r"\b(?:highest|richest) in\b": "most",
    r"\bunder water\b": "underwater",
    r"\b(?:in|during) the daytime\b": "during the day",
    r"\bnight[- ]?time\b": "night",
    r"\b(is|are|be|not|an?|both|two|first) even\b(?! (?:more|less|if|when|though|[a-z]+er)\b)": r"\1 eveninteger",
    r"\beven (?=(?:numbers?|integers?|digits?)\b)": "eveninteger ",
    r",? (?:in total|in all|altogether|all together)(?=\s*\?)": "",
    r"\b(?:might|may|could) have\b": "could have",
    r"\bthe (?:" + _LARGEST + r") (?:number|amount|quantity|count) of\b": "the most",
    r"\bthe (?:" + _SMALLEST + r") (?:number|amount|quantity|count) of\b": "the fewest",
    r"\bleast expensive\b": "cheapest",
    r"\bmost expensive\b": "dearest",
    r"\bless expensive\b": "cheaper",
    r"\bmore expensive\b": "dearer",
    r"\b(?:is|are) (?:true|correct|right)\b": "is true",
    r"\bthe 2 ([a-z]+) both\b|\bboth (?:of )?the 2 ([a-z]+)\b": r"both \1\2",
    r"\b(\d+) more\b"
    r"(?! (?:than|or)\b)(?!(?: [a-z]+){1,3} than\b)": r"another \1",
    r"\b(?:a|an|the) additional (?=\d)|\b(\d+) (?:additional|extra)\b": r"another \1",
    r"\bevery single\b": "every",
}
"""sayings -> what counts for all that say the same"""


def _table(rules: dict[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in rules.items()]


_UNITS_OF_TEXT = [(re.compile(pattern), instead) for pattern, instead in _UNITS.items()]
_RULES = _table(_SHORT), _UNITS_OF_TEXT, _table(_SAYINGS)
_NUMBER = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_ONES[1:10])}))?|({'|'.join(_ONES[:1] + _ONES[2:])}))\b", re.IGNORECASE
)
_LETTER = re.compile(r"(?:(?<=[a-z,;:0-9()] )|(?<![\w'.$°\\])(?=[B-HJ-Z] ))([A-HJ-Z])\b(?!['’°$\-]|\.(?!\s*$))")
"""a letter that stands for something, not "A dog", "I", or an initial"""
_TOTAL = re.compile(r"\b(how (?:many|much)\b[^.?!]*?),? (?:in total|in all|altogether|all together)\b", re.IGNORECASE)
_TOTAL_OF = re.compile(r"\bhow (many|much) total\b|\bwhat is the total number of\b", re.IGNORECASE)


def canonical(text: str) -> str:
    """The text with one way to write each of the small things above; it need not be good English."""
    text = _LETTER.sub(r"letter\1", text.replace("’", "'"))
    for table in _RULES[:2]:
        for pattern, instead in table:
            text = pattern.sub(instead, text)
    text = _NUMBER.sub(_value, text)
    for pattern, instead in _RULES[2]:
        text = pattern.sub(instead, text)
    return _TOTAL.sub(r"\1", _TOTAL_OF.sub(lambda found: f"how {found[1] or 'many'}", text))


def _value(found: re.Match[str]) -> str:
    tens, ones, alone = (part.lower() if part else "" for part in found.groups())
    return str(VALUES.get(tens, 0) + VALUES.get(ones, 0) + VALUES.get(alone, 0))
