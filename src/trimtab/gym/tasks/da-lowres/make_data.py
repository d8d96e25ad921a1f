"""Writes the data of this task: `python make_data.py` beside it. Same seed, same files."""

import json
import random
import re
from pathlib import Path

HERE = Path(__file__).parent
PER_INTENT, HELD_OUT = 20, 40
"""sentences of an intent: for training, and in each hidden split"""
KNOWN = 5
"""values of a slot that occur in training; those after the fifteenth are in no list"""
SLOTS = {
    "time": (
        "seven", "half past six", "noon", "quarter to nine", "ten thirty", "eight fifteen", "midnight",
        "five to four",
        "eleven", "six forty", "two thirty", "quarter past three", "nine", "twenty past one", "four", "ten to ten",
        "five fifty", "one", "half past eleven", "twelve twenty",
    ),
    "day": (
        "monday", "tomorrow", "friday", "today", "the weekend", "tuesday", "wednesday", "thursday", "saturday",
        "sunday",
        "tonight", "next week", "the first of may", "new year", "the holidays", "easter", "christmas eve",
        "my birthday",
        "the day after tomorrow", "the third",
    ),
    "city": (
        "rome", "oslo", "vienna", "lisbon", "dublin", "prague", "athens", "warsaw", "madrid", "geneva", "riga",
        "turin",
        "bergen", "porto", "ghent", "naples", "leeds", "zagreb", "lyon", "basel",
    ),
    "person": (
        "anna", "peter", "my sister", "doctor lee", "maria", "tom", "julia", "my boss", "uncle ben", "clara", "david",
        "the plumber", "sofia", "my mother", "karl", "nina", "grandpa", "oscar", "the neighbour", "lena",
    ),
    "place": (
        "luigi's", "the blue door", "green garden", "the old mill", "sakura", "the anchor", "casa verde",
        "the lantern",
        "bombay house", "le petit four", "the red lion", "tapas bar", "the oak", "noodle corner", "the pier",
        "saffron", "the attic", "corner bistro", "pho nine", "the barn",
    ),
    "song": (
        "yellow moon", "river of light", "paper planes", "some jazz", "the four seasons", "old love songs",
        "blue train",
        "piano music", "my running list", "summer rain", "the evening raga", "folk songs", "winter road",
        "a slow waltz", "the second symphony", "rock ballads", "night drive", "string quartets", "golden hour",
        "desert blues",
    ),
    "count": (
        "two", "four", "six", "three", "eight", "five", "seven", "ten", "twelve", "nine", "a dozen", "eleven",
        "fifteen",
        "twenty", "thirteen", "sixteen", "fourteen", "eighteen", "one", "thirty",
    ),
    "length": (
        "ten minutes", "an hour", "five minutes", "half an hour", "twenty minutes", "two hours", "ninety seconds",
        "a quarter of an hour", "three minutes", "fifteen minutes", "forty minutes", "one minute", "twelve minutes",
        "six minutes", "three hours", "eight minutes", "a minute and a half", "fifty minutes", "four hours",
        "two minutes",
    ),
    "news": (
        "i am late", "happy birthday", "call me back", "the train is delayed", "see you soon", "dinner is ready",
        "i am on my way", "the meeting is off", "thank you", "good luck", "bring some bread", "the keys are here",
        "i will be there", "we won", "the door is open", "sleep well", "it is snowing", "where are you",
        "no milk left",
        "all went well",
    ),
}  # fmt: skip
SYNONYMS = (
    ("set", "create", "schedule", "add"), ("cancel", "delete", "remove", "scrap"), ("play", "start", "put on"),
    ("stop", "halt", "silence", "end"), ("book", "reserve", "arrange"), ("send", "write", "text"),
    ("read", "show", "open"), ("alarm", "wake-up call", "morning bell"), ("timer", "countdown", "stopwatch"),
    ("music", "sound", "tune", "audio"), ("weather", "forecast", "outlook", "temperature"),
    ("table", "seat", "spot"), ("reservation", "booking", "dinner plan"),
    ("message", "note", "line"), ("messages", "notes", "mail", "inbox"), ("new", "unread", "latest"),
    ("restaurant", "diner", "bistro"), ("people", "guests", "persons"), ("tell", "inform", "let know"),
    ("rain", "snow", "storm"), ("song", "track", "album"), ("please", "kindly"), ("want", "need", "would like"),
    ("minutes", "moments"), ("morning", "evening"), ("line", "row", "queue"), ("spot", "stain"), ("end", "finish"),
)  # fmt: skip
"""the last ones mislead, as any list of synonyms does"""
TRAINING = {
    "alarm_set": ("set an alarm for {time}", "set the alarm on {day} at {time}", "i want an alarm at {time}"),
    "alarm_cancel": ("cancel the alarm at {time}", "cancel my alarm on {day}", "i want no alarm on {day}"),
    "timer_set": ("set a timer for {length}", "set the timer to {length}", "i want a timer of {length}"),
    "music_play": ("play {song}", "play the song {song}", "i want music , play {song}"),
    "music_stop": ("stop the music", "stop the song {song}", "i want no music on {day}", "stop playing {song}"),
    "weather": ("what is the weather in {city}", "weather in {city} on {day}", "is there rain in {city} on {day}"),
    "table_book": (
        "book a table for {count} at {place}", "book a table at {place} on {day}",
        "i want a table for {count} people",
    ),
    "table_cancel": (
        "cancel the table at {place}", "cancel my reservation on {day}", "i want no table at {place} on {day}",
    ),
    "message_send": (
        "send a message to {person}", "send {person} the message {news}", "tell {person} that {news}",
    ),
    "message_read": (
        "read my messages", "read the new message from {person}", "i want my messages from {person}",
    ),
}  # fmt: skip
UNSEEN = {
    "alarm_set": (
        "could you create a wake-up call for {time}", "schedule a morning bell on {day} , {time} sharp",
        "{day} at {time} i need an alarm", "add a wake-up call at {time} for me", "new morning bell , {time}",
    ),
    "alarm_cancel": (
        "delete the wake-up call on {day}", "please remove the {time} morning bell", "{day} : scrap the alarm",
        "i need you to delete my {time} wake-up call", "remove every morning bell on {day}",
    ),
    "timer_set": (
        "create a countdown of {length}", "{length} on the stopwatch now", "could you schedule a {length} countdown",
        "add a stopwatch for {length} , please", "i need a countdown , {length}",
    ),
    "music_play": (
        "put on {song} for me", "could you start the album {song}", "start the track {song} please",
        "i would like some tune , {song}", "put on the audio of {song}",
    ),
    "music_stop": (
        "please silence the audio", "halt the track {song}", "could you end the tune {song}",
        "silence {song} at once",
        "no more sound , halt it",
    ),
    "weather": (
        "show the forecast of {city}", "{city} on {day} : what outlook", "will there be snow in {city}",
        "i need the temperature of {city} for {day}", "could there be a storm on {day} in {city}",
    ),
    "table_book": (
        "reserve a spot at {place}", "could you arrange seats for {count} guests at {place}",
        "{count} persons at {place} on {day} , reserve please", "i need a seat at the bistro {place}",
        "arrange a spot on {day} for {count} guests",
    ),
    "table_cancel": (
        "delete the booking at {place}", "please remove our dinner plan on {day}", "scrap the spot at {place}",
        "the booking for {count} guests : delete it", "i need you to scrap the dinner plan at {place}",
    ),
    "message_send": (
        "write {person} a note : {news}", "text {person} that {news}", "let {person} know that {news}",
        "could you inform {person} : {news}", "a line to {person} please , {news}",
    ),
    "message_read": (
        "show the inbox", "open the latest mail from {person}", "any unread notes from {person}",
        "could you open my unread mail", "i need to see the latest note of {person}",
    ),
}  # fmt: skip


def filled(template: str, values: slice, rng: random.Random) -> str:
    return re.sub(r"{(\w+)}", lambda found: rng.choice(SLOTS[found[1]][values]), template)


def drawn(templates: dict[str, tuple[str, ...]], count: int, values: slice, rng: random.Random, seen: set[str]) -> list:
    """[intent, sentence] pairs, shuffled; only training may repeat a sentence."""
    found = []
    for intent, of_intent in templates.items():
        kept: list[str] = []
        for tries in range(100 * count):
            text = filled(of_intent[tries % len(of_intent)], values, rng)
            if len(kept) < count and (text not in seen or tries > 50 * count):
                kept.append(text)
                seen.add(text)
        found += [(intent, text) for text in kept]
    rng.shuffle(found)
    return found


def main() -> None:
    rng, seen = random.Random(20240811), set[str]()
    rows = {
        "workspace/data/train.tsv": drawn(TRAINING, PER_INTENT, slice(KNOWN), rng, seen),
        "hidden/public.tsv": drawn(UNSEEN, HELD_OUT, slice(KNOWN, None), rng, seen),
        "hidden/private.tsv": drawn(UNSEEN, HELD_OUT, slice(KNOWN, None), rng, seen),
    }
    for path, found in rows.items():
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_text("".join(f"{intent}\t{text}\n" for intent, text in found))
    data = HERE / "workspace" / "data"
    (data / "slots.json").write_text(json.dumps({name: values[:15] for name, values in SLOTS.items()}, indent=1) + "\n")
    (data / "synonyms.txt").write_text("".join(f"{', '.join(group)}\n" for group in SYNONYMS))


if __name__ == "__main__":
    main()
