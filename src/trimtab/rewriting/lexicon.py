"""Words of English by what they do in a sentence, and pairs that WordNet lacks or knows of other senses alone."""

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


QUESTION_WORDS = _set("who whom whose when where why how what which")
AUXILIARIES = _set(
    "am is are was were be been being do does did done doing has have had having will would shall should can could "
    "may might must ought"
)
PREPOSITIONS = _set(
    "of to in on at by for from with into onto upon about as than per via within among between during through "
    "throughout around across along towards toward over up off out since because due so if when while although though "
    "whereas whether"
)
FUNCTION = (
    QUESTION_WORDS | AUXILIARIES | PREPOSITIONS
    | _set(
        "a an the this that these those there here i you he she it we they me him her us them my your his its our "
        "their mine yours hers ours theirs myself yourself himself herself itself ourselves themselves oneself one "
        "ones someone something somebody anyone anything everyone everything and or but nor not no yes too also very "
        "just such own other another any some all every each both either neither many much more most less few fewer "
        "least only even still already yet again then now please s t re ve ll d m let true"
    )
)  # fmt: skip
"""words that carry no thing or deed of their own; `trimtab.rewriting.protected` counts quantifiers and negations"""
RELATIONS = {
    "before": _set("before prior preceding earlier ahead"),
    "after": _set("after afterwards later"),
    "until": _set("until till"),
    "against": _set("against"),
    "with": _set("without excluding except"),
    "unless": _set("unless"),
    "than": _set("than"),
}
"""relation -> words for it; a rewrite has each as often"""
FUNCTION |= frozenset(word for words in RELATIONS.values() for word in words)
POSSIBLE = _set("probably perhaps maybe possibly likely might apparently presumably supposedly")
CERTAIN = _set("certainly definitely surely undoubtedly unquestionably inevitably")
MAY, MUST = _set("may can could"), _set("must should shall ought")
NOW, THEN = _set("is are am has does do"), _set("was were had did")
FUNCTION |= POSSIBLE | CERTAIN
REQUESTS = _set(
    "explain describe tell give name list state calculate compute find determine write compose say show mention "
    "identify pick choose work provide define discuss make get use"
)
FRAME = REQUESTS | _set(
    "event place go come own turn become serve put know count number amount quantity way manner means thing kind type "
    "sort form example instance fact case happen occur result right exactly call mean meaning able possible people "
    "person take need want consequence there "
    "following option statement choice value result total find contain hold "
    "consist comprise conclude infer"
)
"""words that ask, or hold a sentence together: they may come and go"""
LIGHT = _set("draw complete carry_out perform conduct undergo reach achieve provide deliver hold belong member")
"""verbs that a noun may need to say what a verb says alone: draw a conclusion, conclude"""
CUES = {
    "when": _set("year date time day month century moment hour age period"),
    "where": _set("place city country location town region source spot area land state site begin"),
    "who": _set("person people name author inventor artist man woman one"),
    "why": _set("reason cause purpose explain make lead bring because"),
    "how": _set(
        "way method means manner process number amount much distance length height age old time speed price cost size "
        "weight total quantity count far long temperature"
    ),
}
"""question word -> words that ask for the same behind what, which, or a request"""
_PAIRS = """
take_in give_off; take_in give_out; give take; borrow lend; borrow return; buy sell; arrive leave; import export;
accept reject; accept refuse; confirm deny; earn pay; win lose; gain lose; pass fail; expand contract; expand shrink;
grow shrink; raise lower; rise fall; rise drop; increase decrease; increase reduce; open close; open shut; begin end;
start stop; start end; start finish; turn_on turn_off; switch_on switch_off; put_on take_off; go_up go_down; teach
learn; push pull; load unload; enter leave; enter exit; include exclude; attract repel; add subtract; multiply divide;
sum product; sum difference; product quotient; numerator denominator; radius diameter; area perimeter; area
circumference; artery vein; early late; first last; north south; east west; left right; above below; over under;
inside outside; up down; on off; into from; upper lower; inner outer; front back; mother father; brother sister; son
daughter; husband wife; uncle aunt; king queen; boy girl; man woman; male female; day night; summer winter; spring
autumn; hot cold; rough smooth; old young; old new; rich poor; cause effect; profit loss; advantage disadvantage;
victory defeat; winner loser; buyer seller; teacher student; employer employee; maximum minimum; positive negative;
acid base; odd even; prime composite; input output; encode decode; encrypt decrypt; ascend descend; ascending
descending; clockwise counterclockwise; horizontal vertical; parallel perpendicular; solid liquid; predator prey;
plural singular; past future; including excluding; with before; with without; with after; and or; ancestor descendant;
upstream downstream; absorb emit; absorb release; inhale exhale; freeze melt; freeze boil; evaporate condense; create
destroy; build destroy; protect harm; allow forbid; permit prohibit; remember forget; love hate; agree disagree; save
spend; praise blame; hire fire; attack defend; send receive; question answer; plus minus; inflation deflation; import
export; majority minority; deposit withdraw; mean median; average median; mean mode; average mode; median mode; area
volume; surface volume;
odd eveninteger; maker user; cause result; parent child; host guest; doctor patient; permanent temporary
"""
OWN_OPPOSITES = tuple(_set(pair) for pair in re.split(";", _PAIRS))
"""opposites that WordNet lacks or knows of other senses alone; of this project"""
_ALIKE = """
human person people; solve find; photo picture; run lead; whole entire all; left remain; stand short; protagonist
hero; long time duration length; affect effect influence impact; far distance; old age; tall high height; fast quick
speed; big large size; heavy weight weigh; often frequency; much amount quantity; many number; cost price; add sum
plus; subtract difference minus; multiply product times; divide quotient; sleep asleep; freeze ice; live home; reach
travel arrive; born birth; alive living life; dead death die; kid child; ill sick; correct right; wrong incorrect; own
have possess; begin start; end finish stop; nearest closest near close; improve better; late delay; permit allow;
source begin origin; symbol stand represent; inventor creator; role function purpose;
follow conclude infer inference conclusion deduce;
travel cover drive ride;
make_up consist comprise compose; feel feeling attitude opinion; occur happen break_out; call know
"""
OWN_SYNONYMS = tuple(_set(group) for group in re.split(";", _ALIKE))
"""words that say the same in some sentence, which WordNet does not pair; of this project"""
PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "non-", "mis", "anti", "anti-", "de", "counter", "under")
PARTICLES = _set("in out on off up down away back over through along")
AMBIGUOUS = _set("in on over through along")
"""particles that may also begin a phrase of their own, as in: the fall in prices"""
TURNED = frozenset(map(frozenset, (("in", "out"), ("on", "off"), ("up", "down"))))
"""particles that turn a verb round"""
UNITS = _set(
    "second minute hour day week month year decade century millimetre centimetre metre kilometre millimeter "
    "centimeter meter kilometer inch foot yard mile gram kilogram pound ounce ton tonne litre liter millilitre gallon "
    "degree radian cent dollar euro percent volt watt joule newton hertz"
)
CLAUSE = _set("if when before after because although though while until unless")
CONDITION = _set("if unless")
PHRASE = _set("than from to by for with of against without only")
TO_OR_GOING = _set("stop remember forget regret")
"""verbs that say another thing before an infinitive than before a form in -ing"""
SCOPE = _set("all every each both many much always only necessarily everyone everybody everything must")
SENTENCE = frozenset(".?!")
HYPOTHETICAL = ("should have", "could have", "would have", "must have")
BE = _set("is are was were be been being get gets got am")
_SUFFIXES = """
ical ic ences ence ances ance ations ation itions ition ments ment ings ing ness ers ors ies ied ied ised ises ise
ized izes ize ions ion ists ist able ible ally ous ial al ity ive ful ely ly ed er or es en e y s
"""
SUFFIXES = _SUFFIXES.split()
