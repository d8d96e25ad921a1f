"""Write the rows of memory in src/trimtab/data/bundled/socialbench.jsonl; the other rows of the file stay as they are.

    python scripts/socialbench_memory.py

Each case plants facts in a few turns, then come exchanges about small matters that hold none of its keywords, then the
question. A short dialogue has two such exchanges after the facts, a long one has ten, so that both lengths ask alike.
All texts were written for trimtab and are in the public domain (CC0).
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

BUNDLED = Path(__file__).parents[1] / "src" / "trimtab" / "data" / "bundled" / "socialbench.jsonl"


class Case(NamedTuple):
    name: str
    profile: str
    facts: list[str]
    """turns of the user and the Assistant in turn"""
    question: str
    keywords: list[str]


SHORT = [
    Case(
        "Marisol",
        "Marisol runs a village bakery and remembers what her customers like.",
        [
            "Good morning! I need a cake for my niece's birthday.",
            "With pleasure! What does she like?",
            "Anything with apricots. But no hazelnuts, she gets a rash from them.",
            "Noted, I'll bake it without a trace of them.",
        ],
        "Before you start on the cake: which fruit did I ask for, and what must stay out of it?",
        ["apricot", "hazelnut"],
    ),
    Case(
        "Henrik",
        "Henrik is a piano tuner who travels with a leather case of forks.",
        [
            "My piano sounds dreadful since we moved.",
            "Tell me where it stands now.",
            "Right beside the fireplace, in the study.",
            "Heat is bad for it. I'd come on Wednesday, if that suits you.",
            "Wednesday is fine.",
            "Then Wednesday it is.",
        ],
        "Remind me, on which day are you coming, and what did I say the piano stands beside?",
        ["Wednesday", "fireplace"],
    ),
    Case(
        "Ayla",
        "Ayla guides visitors through a desert canyon and is careful about water.",
        [
            "I've booked your canyon walk. There are six of us.",
            "Welcome! Does anyone need special care?",
            "My father walks with a cane, and my friend Dario is afraid of heights.",
            "Then we'll take Heron Path.",
        ],
        "Which of us can't bear to look down, and which path are we taking because of him?",
        ["Dario", "Heron"],
    ),
    Case(
        "Corin",
        "Corin repairs bicycles in a former stable and charges by the hour.",
        [
            "My bicycle makes a grinding noise.",
            "Front or back?",
            "At the back, whenever I brake. It's the green one with a basket.",
            "That will be the pads. I can replace them today.",
        ],
        "Which parts did you say you would replace, and what colour did I tell you my bicycle was?",
        ["pads", "green"],
    ),
    Case(
        "Fenna",
        "Fenna is a gardener at the botanical garden and talks to her seedlings.",
        [
            "My lemon tree is dropping its leaves.",
            "How often do you water it?",
            "Every day. It stands in a blue pot in the hallway.",
            "That's too often. Only on Sundays, and move it to the veranda.",
        ],
        "I'm about to water the tree. On which days did you allow it, and where was I to put the pot?",
        ["Sunday", "veranda"],
    ),
    Case(
        "Dr Basile",
        "Dr Basile is a vet in a fishing town and keeps three one-eyed cats.",
        [
            "My dog swallowed a button this morning.",
            "What is he called, and how heavy is he?",
            "Pogo. About nine kilos.",
            "Give him porridge for two days, and call if he stops eating.",
        ],
        "The sitter is here and asks what the dog is called and what he may eat.",
        ["Pogo", "porridge"],
    ),
    Case(
        "Leila",
        "Leila teaches the violin to adults who begin late.",
        [
            "I finally bought a violin, second-hand.",
            "Congratulations! What will be your first piece?",
            "A lullaby my grandmother used to hum. She came from Tbilisi.",
            "Bring it along. We'll begin with the bow arm.",
        ],
        "Do you recall what kind of tune I wanted to learn, and from which city the person came who hummed it?",
        ["lullaby", "Tbilisi"],
    ),
    Case(
        "Pavel",
        "Pavel is the night porter of a small hotel and forgets no guest.",
        [
            "I'd like to be woken, please.",
            "Certainly. On which day, and when?",
            "On Tuesday at six. No, wait, on Thursday, my flight was moved.",
            "On Thursday, then. And for breakfast?",
            "Only buttermilk, well chilled.",
            "Chilled buttermilk, gladly.",
        ],
        "Just to be sure: on which day will you knock, and what are you bringing me to drink?",
        ["Thursday", "buttermilk"],
    ),
    Case(
        "Noa",
        "Noa draws maps for walkers, by hand, with every stile on them.",
        [
            "I'd like a map of the walk on which I proposed.",
            "How lovely. Where does it begin?",
            "At the old watermill. The bench where I asked is under a chestnut.",
            "I'll draw the bench in gold.",
        ],
        "How will people find the bench on your map: which tree is above it, and what colour did you promise?",
        ["chestnut", "gold"],
    ),
    Case(
        "Sunil",
        "Sunil edits a local paper and hates exclamation marks.",
        [
            "I'd like to write for you about our swimming pool.",
            "What is new about it?",
            "It's to be closed in October, and the mayor told nobody.",
            "Not too long, please, and send it to Ursula, she does the layout.",
        ],
        "It's written. Whom did you want me to send it to, and in which month did I say the pool closes?",
        ["Ursula", "October"],
    ),
    Case(
        "Greta",
        "Greta makes spectacles and once fitted a pair for a parrot.",
        [
            "I sat on my glasses.",
            "It happens every day. Which side broke?",
            "The left hinge. I can't work without them, I restore tapestries.",
            "I can lend you a pair until they are soldered.",
        ],
        "Which part did I tell you had broken, and what do I do for a living?",
        ["hinge", "tapestr"],
    ),
    Case(
        "Emeka",
        "Emeka coaches long-distance runners and starts each day before sunrise.",
        [
            "I want to run a marathon, coach.",
            "Which one, and when?",
            "The one in Lisbon, in spring. But I sprained my ankle last year.",
            "Then only flat roads for the first month.",
        ],
        "Where is my race, and which part of me did I tell you I had hurt?",
        ["Lisbon", "ankle"],
    ),
]

LONG = [
    Case(
        "Tove",
        "Tove builds wooden boats in a shed on the fjord and names each one herself.",
        [
            "I want to order a rowing boat.",
            "What will you do with it?",
            "Fish for perch with my twins. It should be painted yellow.",
            "Larch for the planks, then. I'd call her Kittiwake.",
        ],
        "I told my family about the boat. What wood and what name did you have in mind?",
        ["larch", "Kittiwake"],
    ),
    Case(
        "Aurelio",
        "Aurelio is a tailor who cuts by eye and is never a centimetre off.",
        [
            "I need a suit for my daughter's wedding.",
            "When is the great day?",
            "On the third of June, in a vineyard.",
            "Linen, then, in grey. Come for a fitting once the lining has arrived.",
        ],
        "My wife asks which cloth we settled on, and where the wedding is to be.",
        ["linen", "vineyard"],
    ),
    Case(
        "Mina",
        "Mina is an archivist in the town hall and finds papers nobody else can.",
        [
            "I'm looking for my great-grandfather's papers.",
            "What was his name?",
            "Balthasar Knoll. He was a chimney sweep.",
            "I would look in cellar four, among the guild rolls.",
        ],
        "I'm filling in the form. What full name do I put down for the man, and what was his trade?",
        ["Balthasar", "chimney"],
    ),
    Case(
        "Jarek",
        "Jarek is a mountain rescuer who checks every knot twice.",
        [
            "We're crossing the ridge on Saturday.",
            "How many are you, and which hut do you start from?",
            "Four, and we start from Raven Hut.",
            "Turn back by noon if you haven't reached the cross. And take a whistle.",
        ],
        "What was the one thing you told us to carry, and from which hut did I say we start?",
        ["whistle", "Raven"],
    ),
    Case(
        "Celeste",
        "Celeste mixes perfumes and can tell a street by its smell.",
        [
            "Could you make a scent that reminds me of home?",
            "What does home smell of?",
            "Wet slate, and the fennel behind our house.",
            "I'll begin with fennel. It'll be ready when the moon is full.",
        ],
        "Which two smells did I name to you when you asked about home?",
        ["slate", "fennel"],
    ),
    Case(
        "Bogdan",
        "Bogdan keeps an allotment and a notebook in which he writes down every frost.",
        [
            "I've taken the plot next to yours.",
            "Welcome, neighbour! What will you plant?",
            "Pumpkins. My son wants to win the prize with one.",
            "Save eggshells for the slugs. The tap is behind the elder bush.",
        ],
        "There's something eating my plants. What did you advise me to save, and what was my son hoping to win with?",
        ["shell", "pumpkin"],
    ),
    Case(
        "Ingrid",
        "Ingrid teaches evening classes in Norwegian and loves a good mistake.",
        [
            "I'd like to learn Norwegian quickly.",
            "Why the hurry?",
            "My fiancé's mother speaks nothing else. We visit her in Tromsø at Easter.",
            "Then we'll start with words for the weather.",
        ],
        "Which words are we starting with in class, and where does my mother-in-law to be live?",
        ["weather", "Troms"],
    ),
    Case(
        "Okan",
        "Okan restores old radios and can hear which valve is dying.",
        [
            "I've inherited a radio from the fifties.",
            "What make is it?",
            "It's called a Nightingale. It hums, and the dial is cracked.",
            "The hum is a capacitor. I'll order one.",
        ],
        "What is my radio called again, and which part did you say is to blame?",
        ["Nightingale", "capacitor"],
    ),
    Case(
        "Wilma",
        "Wilma drives the mobile library and picks a book for everyone.",
        [
            "What should I read, Wilma?",
            "What did you last enjoy?",
            "One about lighthouses. I can't stand westerns.",
            "Then I'll bring you The Salt Winter, about whalers.",
        ],
        "Next time you come by, what were you going to bring me, and what kind of book do I dislike?",
        ["Salt Winter", "western"],
    ),
    Case(
        "Rafiq",
        "Rafiq cooks for a school and knows the allergies of two hundred children.",
        [
            "My daughter Samira starts at your school today.",
            "Welcome! Is there anything she can't eat?",
            "Sesame. And she's shy, she won't tell you.",
            "Then she gets a red tray, so that we all know.",
        ],
        "Her teacher asks what it is that she mustn't eat, and how your people will recognise her.",
        ["sesame", "tray"],
    ),
    Case(
        "Yun",
        "Yun photographs birds and can sit still for nine hours.",
        [
            "I saw a strange bird on our pond.",
            "Describe it to me.",
            "Black, with a white patch on its forehead. I see it at dusk.",
            "A coot. Come with a folding chair and I'll teach you to wait.",
        ],
        "What was my bird, and what am I to bring along?",
        ["coot", "chair"],
    ),
    Case(
        "Agathe",
        "Agathe tells stories in a hospital's children's ward, each with a fox in it.",
        [
            "My son asked for a story of yours, for Thursday.",
            "What is he fond of?",
            "Submarines. And he is called Matthis.",
            "Then the fox shall steer a submarine, and her cook will be a walrus.",
        ],
        "He can't wait! Who will be cooking in the story, and what does the fox steer?",
        ["walrus", "submarine"],
    ),
]

SMALL_TALK = [
    [
        "It has begun to drizzle here.",
        "I hope you have an umbrella with you.",
        "I never do, I just walk faster.",
        "That works until the first puddle.",
    ],
    [
        "Our lift is broken again.",
        "Which floor are you on?",
        "The top one, of course.",
        "Good for the legs, they say, and bad for the temper.",
    ],
    [
        "I tried to fold a fitted sheet today.",
        "And who won?",
        "The sheet. It's a ball in the cupboard now.",
        "That's where most of them end up.",
    ],
    [
        "Somebody on my street is learning to yodel.",
        "Are they getting better?",
        "Louder, at any rate.",
        "Loud comes first, tuneful later.",
    ],
    [
        "I've been looking for my pen for half an hour.",
        "Did you check behind your ear?",
        "That is where it was. How did you know?",
        "It nearly always is.",
    ],
    [
        "The queue at the post office was endless.",
        "Did you get your parcel in the end?",
        "No, they'd closed by then.",
        "How annoying. Better luck next time.",
    ],
    [
        "My neighbour has painted his door, and now everyone wants to.",
        "Such things are catching.",
        "Mine would need sanding first.",
        "Then wait and see if the fashion lasts.",
    ],
    [
        "I dreamt that I'd missed an exam.",
        "Long after school, too?",
        "Decades after. I couldn't find the room.",
        "Nobody ever finds that room.",
    ],
    [
        "Do you think people are friendlier in the sun?",
        "They're at least outside more.",
        "And they sit on walls.",
        "A wall with people on it looks friendly at once.",
    ],
    [
        "My phone has learnt a word I never use.",
        "And puts it everywhere?",
        "Into every message to my boss.",
        "I hope it's at least a polite one.",
    ],
    [
        "They're digging up our road once more.",
        "What for, this time?",
        "Nobody knows. Cables, perhaps.",
        "It will be closed again just in time to be opened.",
    ],
    [
        "I found a note in a jacket I hadn't worn for ages.",
        "Was it something important?",
        "A shopping list. It just said 'the usual'.",
        "Then you knew what you wanted in those days.",
    ],
    [
        "My cousin talks in his sleep.",
        "Does he make sense?",
        "He gives directions to a place that isn't there.",
        "Somebody in the dream is grateful for it.",
    ],
    [
        "I've counted, and I own one glove of every pair.",
        "The others must be having a party.",
        "Without me, as usual.",
        "You could start a fashion with odd ones.",
    ],
    [
        "The bus driver waited for me today.",
        "That was kind of him.",
        "I waved all the way to my seat.",
        "That will have made his morning.",
    ],
    [
        "I can't decide whether to have my hair cut.",
        "What is stopping you?",
        "I'd have to talk to the barber about football.",
        "You could ask him about his holidays first.",
    ],
    [
        "A balloon got stuck on our roof.",
        "Is it still up there?",
        "It nods at everyone who passes.",
        "Then you have a very polite roof.",
    ],
    [
        "Our clock in the hall runs backwards since the repair.",
        "Can you still tell the time by it?",
        "With a mirror, yes.",
        "Then it isn't broken, merely shy.",
    ],
    [
        "I spoke to my old neighbour on the phone.",
        "How is she doing?",
        "Fine. She has taken up the drums.",
        "Then her neighbours are in for some lively evenings.",
    ],
    [
        "My stairs creak, every one of them.",
        "Some things should stay as they are.",
        "I'd still like to come home quietly, once.",
        "Try walking at the edge, close to the wall.",
    ],
    [
        "I've bought a plant that nobody can kill, they say.",
        "How is it doing?",
        "It's looking at me reproachfully.",
        "Then it is alive, and that's a start.",
    ],
    [
        "The lamp in my kitchen flickers when I sing.",
        "Perhaps it's keeping time.",
        "Or asking me to stop.",
        "I'd choose the first explanation.",
    ],
    [
        "Do you make lists?",
        "Now and then. And you?",
        "All the time, and I lose them.",
        "You need a list of where the lists are.",
    ],
    [
        "A child on the train asked me how old I was.",
        "What did you answer?",
        "'Very'. She nodded and offered me her seat.",
        "She was brought up well.",
    ],
    [
        "I've been humming the same jingle since breakfast.",
        "Which product is it for?",
        "That's the thing, I can't remember.",
        "Then the advertiser got only half of what he paid for.",
    ],
    [
        "My sister is moving house for the fifth time.",
        "Are you carrying boxes again?",
        "Every one of them is marked 'miscellaneous'.",
        "At least the label is never wrong.",
    ],
]


def row(case: Case, exchanges: int, generator: random.Random) -> dict:
    chosen = generator.sample(SMALL_TALK, exchanges)
    turns = [*case.facts, *(turn for exchange in chosen for turn in exchange), case.question]
    speakers = ("User", "Assistant")
    return {
        "dialogue": [{"from": speakers[i % 2], "value": turn} for i, turn in enumerate(turns)],
        "instruction": "",
        "choices": {},
        "label": case.keywords,
        "meta": {"lang": "en", "name": case.name, "category": "Individual-MEM", "profile": {case.name: case.profile}},
    }


def main() -> None:
    old = BUNDLED.read_text(encoding="utf-8").split("\n") if BUNDLED.exists() else []
    kept = [line for line in old if line and json.loads(line)["meta"]["category"] != "Individual-MEM"]
    generator = random.Random("memory")
    made = [row(case, 2, generator) for case in SHORT] + [row(case, 10, generator) for case in LONG]
    text = [json.dumps(one, ensure_ascii=False) for one in made]
    BUNDLED.write_text("\n".join([*kept, *text]) + "\n", encoding="utf-8")
    print(f"{len(made)} rows of memory, {len(kept)} others: {BUNDLED}")


if __name__ == "__main__":
    main()
