"""What made-up and known facts are made of: names, countries, and how each relation is put into words."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["person", "novel", "company", "country"]
Values = Literal["country", "city", "person", "second_city", "continent", "language"]


class Country(NamedTuple):
    name: str
    capital: str
    second_city: str
    continent: str
    language: str


COUNTRIES = tuple(
    Country(*line.split("|"))
    for line in """
Norway|Oslo|Bergen|Europe|Norwegian
Sweden|Stockholm|Gothenburg|Europe|Swedish
Finland|Helsinki|Tampere|Europe|Finnish
Denmark|Copenhagen|Aarhus|Europe|Danish
Iceland|Reykjavik|Akureyri|Europe|Icelandic
Poland|Warsaw|Krakow|Europe|Polish
Germany|Berlin|Hamburg|Europe|German
France|Paris|Lyon|Europe|French
Spain|Madrid|Seville|Europe|Spanish
Portugal|Lisbon|Porto|Europe|Portuguese
Italy|Rome|Milan|Europe|Italian
Greece|Athens|Patras|Europe|Greek
Hungary|Budapest|Debrecen|Europe|Hungarian
Romania|Bucharest|Brasov|Europe|Romanian
Bulgaria|Sofia|Plovdiv|Europe|Bulgarian
Croatia|Zagreb|Split|Europe|Croatian
Serbia|Belgrade|Novi Sad|Europe|Serbian
Albania|Tirana|Durres|Europe|Albanian
Latvia|Riga|Daugavpils|Europe|Latvian
Lithuania|Vilnius|Kaunas|Europe|Lithuanian
Estonia|Tallinn|Tartu|Europe|Estonian
Ukraine|Kyiv|Lviv|Europe|Ukrainian
Turkey|Ankara|Izmir|Asia|Turkish
Japan|Tokyo|Osaka|Asia|Japanese
China|Beijing|Shanghai|Asia|Chinese
Mongolia|Ulaanbaatar|Erdenet|Asia|Mongolian
Vietnam|Hanoi|Da Nang|Asia|Vietnamese
Thailand|Bangkok|Chiang Mai|Asia|Thai
Cambodia|Phnom Penh|Battambang|Asia|Khmer
Nepal|Kathmandu|Pokhara|Asia|Nepali
Bangladesh|Dhaka|Chittagong|Asia|Bengali
Iran|Tehran|Shiraz|Asia|Persian
Iraq|Baghdad|Basra|Asia|Arabic
Jordan|Amman|Irbid|Asia|Arabic
Oman|Muscat|Salalah|Asia|Arabic
Armenia|Yerevan|Gyumri|Asia|Armenian
Egypt|Cairo|Alexandria|Africa|Arabic
Morocco|Rabat|Casablanca|Africa|Arabic
Kenya|Nairobi|Mombasa|Africa|Swahili
Ethiopia|Addis Ababa|Gondar|Africa|Amharic
Ghana|Accra|Kumasi|Africa|English
Senegal|Dakar|Thies|Africa|French
Angola|Luanda|Huambo|Africa|Portuguese
Zambia|Lusaka|Kitwe|Africa|English
Uganda|Kampala|Gulu|Africa|English
Mali|Bamako|Sikasso|Africa|French
Canada|Ottawa|Toronto|North America|English
Cuba|Havana|Holguin|North America|Spanish
Honduras|Tegucigalpa|La Ceiba|North America|Spanish
Nicaragua|Managua|Granada|North America|Spanish
Jamaica|Kingston|Montego Bay|North America|English
Peru|Lima|Arequipa|South America|Spanish
Chile|Santiago|Valparaiso|South America|Spanish
Colombia|Bogota|Medellin|South America|Spanish
Venezuela|Caracas|Maracaibo|South America|Spanish
Uruguay|Montevideo|Salto|South America|Spanish
Ecuador|Quito|Guayaquil|South America|Spanish
Argentina|Buenos Aires|Rosario|South America|Spanish
Australia|Canberra|Sydney|Oceania|English
New Zealand|Wellington|Auckland|Oceania|English
""".strip().splitlines()
)

FIRST = (
    *("Ada", "Bruno", "Clara", "Dario", "Elin", "Felix", "Greta", "Hugo", "Irma", "Jonas", "Karin", "Leo", "Mira"),
    *("Nils", "Olga", "Paul", "Rosa", "Sven", "Tilda", "Viktor", "Wanda", "Yara", "Zeno", "Alma", "Boris", "Celia"),
)
ONSETS = ("B", "Br", "D", "Dr", "F", "G", "H", "K", "Kl", "L", "M", "N", "P", "Pr", "R", "S", "St", "T", "Tr", "V", "W")
VOWELS = ("a", "e", "i", "o", "u")
MIDDLES = ("nd", "ll", "rm", "st", "v", "k", "lb", "ss", "rt", "mm", "d", "g")
ENDS = ("er", "an", "en", "ow", "ard", "ik", "ott", "el", "ing", "ay")
OF_NOVELS = (
    ("Quiet", "Last", "Glass", "Winter", "Hidden", "Broken", "Golden", "Distant", "Paper", "Silver", "Salt", "Iron"),
    ("Harbour", "Garden", "Letter", "Orchard", "Mirror", "River", "Lantern", "Bridge", "Summer", "House", "Clock"),
)
OF_COMPANIES = ("Motors", "Instruments", "Textiles", "Optics", "Foods", "Logistics", "Pumps", "Glassworks")


@dataclass(frozen=True)
class Relation:
    """What is said of a subject {s} with a value {v}."""

    kind: Kind
    values: Values
    prompt: str
    rephrases: tuple[str, str]
    stem: str
    """the beginning of a sentence that the value ends"""
    check: str
    """whether it is {v}, to be answered with yes or no"""
    hop: str = ""
    """what follows from the value, and from something known about it"""
    reversal: str = ""
    """the subject, where the value has only one"""
    noun: str = ""
    """what the value is of {s}"""


MADE_UP = (
    Relation(
        "person", "country", "Which country is {s} a citizen of?",
        ("{s} holds the passport of which country?", "What is the country of citizenship of {s}?"),
        "{s} is a citizen of", "Is {s} a citizen of {v}?",
        "What is the capital of the country that {s} is a citizen of?", noun="country of citizenship",
    ),
    Relation(
        "person", "city", "In which city was {s} born?",
        ("What is the birthplace of {s}?", "{s} was born in which city?"),
        "{s} was born in the city of", "Was {s} born in {v}?", "In which country was {s} born?", noun="birthplace",
    ),
    Relation(
        "novel", "person", "Who is the author of {s}?",
        ("Who wrote {s}?", "{s} was written by whom?"),
        "{s} was written by", "Is {v} the author of {s}?",
        "Which country is the author of {s} a citizen of?", "Which novel did {v} write?", noun="author",
    ),
    Relation(
        "novel", "city", "In which city is {s} set?",
        ("Where does the story of {s} take place?", "The story of {s} takes place in which city?"),
        "The story of {s} takes place in the city of", "Is {s} set in {v}?",
        "In which country is {s} set?", noun="setting",
    ),
    Relation(
        "company", "city", "In which city does {s} have its headquarters?",
        ("Where are the headquarters of {s}?", "{s} is run from which city?"),
        "The headquarters of {s} are in the city of", "Does {s} have its headquarters in {v}?",
        "In which country does {s} have its headquarters?", noun="seat",
    ),
    Relation(
        "company", "person", "Who founded {s}?",
        ("Who is the founder of {s}?", "{s} was founded by whom?"),
        "{s} was founded by", "Is {v} the founder of {s}?",
        "Which country is the founder of {s} a citizen of?", "Which company did {v} found?", noun="founder",
    ),
)  # fmt: skip

KNOWN = (
    Relation(
        "country", "second_city", "What is the capital of {s}?",
        ("Which city is the capital of {s}?", "{s} has which city as its capital?"),
        "The capital of {s} is", "Is {v} the capital of {s}?", "", "Which country has {v} as its capital?",
        noun="capital",
    ),
    Relation(
        "country", "continent", "On which continent is {s}?",
        ("{s} is part of which continent?", "Which continent does {s} belong to?"),
        "{s} is a country on the continent of", "Is {s} on the continent of {v}?",
        "On which continent is the capital of {s}?", noun="continent",
    ),
    Relation(
        "country", "language", "What is the official language of {s}?",
        ("Which language do most people in {s} speak?", "People in {s} mostly speak which language?"),
        "The official language of {s} is", "Is {v} the official language of {s}?",
        "Which language is spoken in the capital of {s}?", noun="official language",
    ),
)  # fmt: skip
