"""The tasks of training rows and of held-out ones, in six wordings each, of which the last is held out."""

from collections.abc import Callable

from trimtab.data.generators.tool_world import values
from trimtab.data.generators.tool_world.apps import HOURS
from trimtab.data.generators.tool_world.draft import Draft, behind, failed

Shape = Callable[[Draft], None]
MOVE = (
    "Move {title} from {old} to {new}, same time or the next free hour. When was it, and what is its number?",
    "My {title} on {old} must go to {new}, at the same time, later if that is taken. Tell me the time and number.",
    "I cannot make the {title} of {old}. Put it on {new}, at its hour or the first free after; say hour and number.",
    "On {old} there is {title}: take it to {new}. If that hour is taken use the next. Name old hour and number.",
    "Could you reschedule {title}, now on {old}, for {new} at its time or later? I need old time and number.",
    "Shift {title} of {old} to {new}; keep the hour if it is free. Name the old hour and the event.",
)
TELL = (
    "Send {name} the weather of {city} on {day}. Tell me what you sent, to which address, and the number.",
    "Let {name} know the forecast for {city} on {day}; I want the address, the text and the message number.",
    "How will the weather be in {city} on {day}? Tell {name}, and give me address, text and number of the message.",
    "Please write to {name} what {city} expects for {day}. What did you write, where did it go, what is its number?",
    "Look up {city} for {day} and pass the weather on to {name}. Report the address, what was said and the message.",
    "{name} wants to know how {city} will be on {day}. Write it, and name address, text and message.",
)


def order(d: Draft) -> None:
    product = d.drawn.choice(sorted(d.state["shop"]["products"]))
    wanted = d.drawn.randint(2, 6)
    if d.chance(0.4):
        d.state["shop"]["products"][product][2] = wanted = d.drawn.randint(2, 4)
        wanted += d.drawn.randint(1, 3)
    d.ask(
        "Order {n} {product}s, or as many as are left. What does one cost, what do all, and what is the order number?",
        "I want {n} pieces of {product}, fewer if there are not enough. Tell me the price, the total and the number.",
        "How much is a {product}? Order {n}, or what there is, and say what all of them cost and the order number.",
        "Please get {n} {product}s. If the stock is short take all of it. I need single price, sum and order number.",
        "We need {n} of the {product}; whatever is left will do. Give the cost of one, of all, and the order.",
        "Buy me {n} times {product}; take the rest if it is short. Name the price of one, the sum and the order.",
        n=wanted, product=product,
    )  # fmt: skip
    price = d.call(f"I need the price of the {product}.", "get_price", product=product)
    done = d.call(f"Now I order {wanted}.", "place_order", product=product, quantity=wanted)
    if failed(done):
        wanted = int(behind(r"only (\d+) left", done))
        done = d.call(f"There are only {wanted}, so I order {wanted}.", "place_order", product=product, quantity=wanted)
    each = behind(r"(\d+)", price)
    total = d.call("Now the total.", "calculate", expression=f"{wanted} * {each}")
    number = behind(r"order (\w+)", done)
    d.finish(f"One costs {price}, {wanted} cost {total} EUR. The order is {number}.", price, total, number)


def cheaper(d: Draft) -> None:
    products = d.state["shop"]["products"]
    kind = d.drawn.choice(sorted({own[0] for own in products.values()}))
    first, second = [name for name, own in products.items() if own[0] == kind]
    best, other = sorted((first, second), key=lambda name: products[name][1])
    if d.chance(0.35):
        products[best][2] = 0
    d.ask(
        "Order the cheapest {kind} that is not sold out. What do they cost, and what is the order number?",
        "Which {kind}s are there, and at what price? Order one of the cheapest, or the next if it is sold out.",
        "I need a {kind} and want to pay little. See what they cost, order the least expensive left, say the number.",
        "Compare the prices of each {kind} and order the lowest one in stock. Which are there, and what is the order?",
        "Please buy a {kind}, the cheapest one; the other if that is gone. Name all, their prices and the order.",
        "Find me the {kind} with the lowest price that can be had and buy one. Tell me all prices and the order.",
        kind=kind,
    )  # fmt: skip
    d.call(f"I look for a {kind}.", "find_products", kind=kind)
    costs = {name: d.call(f"What does the {name} cost?", "get_price", product=name) for name in (first, second)}
    done = d.call(f"The {best} is the cheapest, I order it.", "place_order", product=best, quantity=1)
    if failed(done):
        done = d.call(f"It is sold out, so I take the {other}.", "place_order", product=other, quantity=1)
    number = behind(r"order (\w+)", done)
    said = " and ".join(f"the {name} {cost}" for name, cost in costs.items())
    d.finish(
        f"There are {first}, {second}: {said}. The order is {number}.", f"{first}, {second}", *costs.values(), number
    )


def book(d: Draft) -> None:
    day, taken, *_ = d.drawn.choice(d.state["calendar"]["events"])
    title = d.pick([one for one in values.EVENTS if one not in [event[2] for event in d.state["calendar"]["events"]]])
    time = taken if d.chance(0.5) else d.drawn.choice([hour for hour in HOURS if hour != taken])
    d.ask(
        "Put {title} on {day} at {time}, or at the next free hour. What is its number, and what is on that day then?",
        "I have {title} on {day} at {time}; take the next free hour if it is taken. Tell me the number and the day.",
        "Add {title} to {day}, {time}, or later if there is something already. Say its number and what is on that day.",
        "On {day} at {time} I go to {title}: write it down, or in the first free hour behind. Tell me number and day.",
        "Is {day} free at {time}? Enter {title} then, or as soon after as possible; give me number and events.",
        "Please note {title}, {day}, {time} or the first free hour after it. Name the event and all of that day.",
        title=title, day=day, time=time,
    )  # fmt: skip
    done = d.call(f"I add {title} at {time}.", "add_event", title=title, date=day, time=time)
    if failed(done):
        free = behind(r"next free: (\S+)", done)
        done = d.call(f"{time} is taken, so I take {free}.", "add_event", title=title, date=day, time=free)
    listed = d.call("Now I look at the day.", "list_events", date=day)
    number = behind(r"event (\w+)", done)
    d.finish(f"It is event {number}. The day has {listed}.", number, listed)


def move(d: Draft) -> None:
    old, new = d.drawn.sample(d.state["calendar"]["events"], 2)
    if d.chance(0.4):
        new[1] = old[1]
    d.ask(
        *MOVE,
        title=old[2], old=old[0], new=new[0],
    )  # fmt: skip
    title, time = old[2], old[1]
    d.call(f"I look when {title} is.", "list_events", date=old[0])
    done = d.call(f"I move it to {time}.", "move_event", title=title, date=new[0], time=time)
    if failed(done):
        free = behind(r"next free: (\S+)", done)
        done = d.call(f"{time} is taken, so I take {free}.", "move_event", title=title, date=new[0], time=free)
    number = behind(r"event (\w+)", done)
    d.finish(f"It was {time} {title}, and is event {number}.", f"{time} {title}", number)


def umbrella(d: Draft) -> None:
    city, days = d.drawn.choice(sorted(d.state["weather"].items()))
    day = d.drawn.choice(sorted(days))
    if d.chance(0.5):
        days[day][1] = "rain"
    d.state["calendar"]["events"] = [one for one in d.state["calendar"]["events"] if one[0] != day]
    d.ask(
        "If there is rain in {city} on {day}, put umbrella at 08:00 of that day, else hat. Give weather and number.",
        "Look at {city} on {day}: for rain I need the event umbrella at 08:00, otherwise hat. Tell me both results.",
        "How is {city} on {day}? Add umbrella at 08:00 for rain or hat for anything else; name sky and event.",
        "Remind me on {day} at 08:00: umbrella if {city} gets rain, else hat. I want forecast and event number.",
        "Check the forecast of {city} for {day} and enter umbrella (rain) or hat (no rain) at 08:00. Report both.",
        "On {day} I am in {city}. Note umbrella at 08:00 if it rains there and hat if not; say weather and event.",
        city=city, day=day,
    )  # fmt: skip
    sky = d.call(f"I need the weather of {city}.", "get_weather", city=city, date=day)
    title = "umbrella" if "rain" in sky else "hat"
    done = d.call(f"It is {sky}, so I add {title}.", "add_event", title=title, date=day, time="08:00")
    number = behind(r"event (\w+)", done)
    d.finish(f"It will be {sky}. The {title} is event {number}.", sky, number)


def warmer(d: Draft) -> None:
    (one, days), (other, _) = d.drawn.sample(sorted(d.state["weather"].items()), 2)
    day = d.drawn.choice(sorted(days))
    low, more = d.drawn.randint(2, 14), d.drawn.randint(15, 20)  # no forecast is the difference
    both = [low, low + more] if d.chance(0.5) else [low + more, low]
    d.state["weather"][one][day][0], d.state["weather"][other][day][0] = both
    d.ask(
        "How many degrees warmer or colder is {one} than {other} on {day}? Give both forecasts too.",
        "What is the weather in {one} and in {other} on {day}, and the difference in degrees, first less second?",
        "On {day}, what do {one} and {other} expect, and by how many degrees is the first above the second?",
        "Take the degrees of {other} from those of {one} for {day}. Say the weather of each, and what is left.",
        "I choose between {one} and {other} for {day}: give both forecasts, and degrees of {one} less {other}.",
        "Compare {one} with {other} on {day}: both forecasts, and the degrees of the first less the second.",
        one=one, other=other, day=day,
    )  # fmt: skip
    first = d.call(f"I need the weather of {one}.", "get_weather", city=one, date=day)
    second = d.call(f"I need the weather of {other}.", "get_weather", city=other, date=day)
    degrees = [behind(r"(\d+) C", text) for text in (first, second)]
    found = d.call("Now the difference.", "calculate", expression=" - ".join(degrees))
    d.finish(f"{one} has {first}, {other} has {second}: {found} degrees.", first, second, f"{found}".lstrip("-"))


def recipe(d: Draft) -> None:
    name = d.drawn.choice(sorted(d.state["files"]))
    unit, to = d.drawn.choice((("ounces", "grams"), ("pounds", "kilograms"), ("grams", "ounces")))
    number, food = d.drawn.randint(2, 40), d.pick(values.FOODS)
    d.state["files"][name] = f"{number} {unit} {food}"
    asked = name.removesuffix(".txt") if d.chance(0.35) else name
    d.ask(
        "Change the {food} in the file {name} to {to} and save it. What was there, and what is there now?",
        "The file {name} names an amount of {food}. Write it there in {to} instead and tell me both amounts.",
        "How much {food} stands in {name}? Replace it there by the amount in {to}, and give me old and new.",
        "Open {name}, turn its {food} into {to} and write that back. I would like to hear both amounts.",
        "Please convert the {food} of {name} to {to} and save the file so. What did it say, and what does it say now?",
        "Rewrite {name}: the {food} should be in {to}. Say the old text and the new amount.",
        name=asked, food=food, to=to,
    )  # fmt: skip
    text = d.call("I read the file.", "read_file", name=asked)
    if failed(text):
        text = d.call(f"The file is called {name}.", "read_file", name=name)
    d.call(f"Now {number} {unit} in {to}.", "convert_units", value=number, unit=unit, to=to)
    made = f"{behind(r'([0-9.]+)', d.messages[-1]['content'])} {to}"
    d.call("I save the new amount.", "write_file", name=name, text=f"{made} {food}")
    d.finish(f"It was {text} and is {made} now.", text, made.partition(" ")[0])


def pay_rise(d: Draft) -> None:
    staff = d.state["staff"]
    name = d.drawn.choice(staff["rows"])[0]
    more = d.drawn.randint(1, 9) * 100
    d.ask(
        "What does {name} earn in the table staff? Raise it by {more} and tell me the old and the new amount.",
        "Give {name} of the staff {more} more. How much was it before, how much is it now?",
        "Add {more} to what {name} gets by the table staff. Say what it was and what it has become.",
        "Pay {name} {more} more from now on, in the table staff, and report both amounts.",
        "In staff, look up what {name} is paid, put {more} on it, and tell me the amounts before and after.",
        "{name} is to get {more} on top of the pay in staff. Say the pay before and after.",
        name=name, more=more,
    )  # fmt: skip
    column = "salary"
    where = f"WHERE name = '{name}'"
    found = d.call(f"I look up the pay of {name}.", "run_sql", query=f"SELECT {column} FROM staff {where}")
    if failed(found):
        column = staff["columns"][2]
        found = d.call(f"The column is called {column}.", "run_sql", query=f"SELECT {column} FROM staff {where}")
    d.call(f"I add {more}.", "run_sql", query=f"UPDATE staff SET {column} = {column} + {more} {where}")
    now = d.call("I check the new pay.", "run_sql", query=f"SELECT {column} FROM staff {where}")
    d.finish(f"{name} had {found} and has {now} now.", found, now)


def team(d: Draft) -> None:
    name, own, _ = d.drawn.choice(d.state["staff"]["rows"])
    d.ask(
        "In which team of the table staff is {name}, and who are all in it? Find the address of {name} too.",
        "Who works in the team of {name}, by the table staff? Name the team, its people and the address of {name}.",
        "Where does {name} work by the table staff, with whom, and what is the address to write to?",
        "I want to write to {name}. Give me the address, and from the table staff the team and all who are in it.",
        "List the team that the table staff has for {name}: its name, its members. And what is the address of {name}?",
        "Tell me the team of {name} (table staff), everybody in it, and how to write to {name}.",
        name=name,
    )  # fmt: skip
    d.state["contacts"]["people"].setdefault(name, f"{name.lower()}@post.example")
    found = d.call(f"I look up the team of {name}.", "run_sql", query=f"SELECT team FROM staff WHERE name = '{name}'")
    all_of = d.call(f"Who is in {own}?", "run_sql", query=f"SELECT name FROM staff WHERE team = '{own}'")
    address = d.call(f"I need the address of {name}.", "find_contact", name=name)
    d.finish(f"The team is {found}, with {all_of}. Write to {address}.", found, all_of, address)


def tell_weather(d: Draft) -> None:
    city, days = d.drawn.choice(sorted(d.state["weather"].items()))
    name, day = d.drawn.choice(sorted(d.state["contacts"]["people"])), d.drawn.choice(sorted(days))
    d.ask(
        *TELL,
        name=name, city=city, day=day,
    )  # fmt: skip
    sky = d.call(f"I need the weather of {city}.", "get_weather", city=city, date=day)
    send(d, name, sky)


def send(d: Draft, name: str, text: str, *before: str) -> None:
    """Write to somebody, and say so."""
    address = d.call(f"I need the address of {name}.", "find_contact", name=name)
    done = d.call(f"I send it to {name}.", "send_message", to=address, text=text)
    number = behind(r"message (\w+)", done)
    said = "".join(f"There is {fact}. " for fact in before)
    d.finish(f"{said}I sent {text} to {address}, message {number}.", *before, text, address, number)


def shopping_list(d: Draft) -> None:
    name = d.drawn.choice(sorted(d.state["files"]))
    product, own = d.drawn.choice(sorted(d.state["shop"]["products"].items()))
    number = d.drawn.randint(2, 3)
    d.state["files"][name] = f"{number} {product}"
    if d.chance(0.3):
        own[2] = 1
    asked = name.removesuffix(".txt") if d.chance(0.35) else name
    d.ask(
        "Order what the file {name} says, or what is left of it. What does it say, and what is the order number?",
        "The file {name} holds what I want to buy. Order it, fewer if need be; tell me the text and the number.",
        "Read {name} and order that, as much as there is of it. Tell me the line in the file and the order number.",
        "What is written in {name}? Order it for me, or the rest of it, and give me the number of the order.",
        "My order stands in {name}. Place it, with less if the shop has less, and report the text and the number.",
        "Buy the things in {name}; if they are short, take the rest. Say what is in it and name the order.",
        name=asked,
    )  # fmt: skip
    text = d.call("I read the file.", "read_file", name=asked)
    if failed(text):
        text = d.call(f"The file is called {name}.", "read_file", name=name)
    done = d.call(f"I order {text}.", "place_order", product=product, quantity=number)
    if failed(done):
        done = d.call("Only 1 is left, so I order 1.", "place_order", product=product, quantity=1)
    order_number = behind(r"order (\w+)", done)
    d.finish(f"It says {text}. The order is {order_number}.", text, order_number)


def price_abroad(d: Draft) -> None:
    product, own = d.drawn.choice(sorted(d.state["shop"]["products"].items()))
    currency = d.drawn.choice([one for one in d.state["money"] if one != "EUR"])
    d.ask(
        "What does a {product} cost in EUR and in {currency}, and how many are left?",
        "Tell me the price of the {product}, also in {currency}, and its stock.",
        "How much do I pay for a {product} in EUR, how much in {currency}, and are there any left, how many?",
        "Give me three things about the {product}: what it costs in EUR, the same in {currency}, how many there are.",
        "A {product}: price, price in {currency}, number in stock, please.",
        "I pay in {currency}: how much is one {product}, how much in EUR, and how many do they have?",
        product=product, currency=currency,
    )  # fmt: skip
    price = d.call(f"I need the price of the {product}.", "get_price", product=product)
    there = d.call(f"Now the price in {currency}.", "exchange_money", amount=own[1], currency="EUR", to=currency)
    left = d.call("Now the stock.", "check_stock", product=product)
    d.finish(f"It costs {price} or {there}, and there are {left}.", price, there, left)


def overview(d: Draft) -> None:
    file = d.drawn.choice(sorted(d.state["files"]))
    name = d.drawn.choice(sorted(d.state["contacts"]["people"]))
    d.ask(
        "Which files are there? Send {name} the text of {file}, and tell me text, address and number.",
        "List my files. Then write to {name} what {file} says; I want the text, the address and the message number.",
        "What files do I have? {name} should get the text of {file}; report it, with the address and the number.",
        "Show me the files, read {file} and send its text to {name}. Which text, which address, which message?",
        "Forward {file} to {name} after listing all files. I need its text, the address it goes to, and the number.",
        "Name all files, and send what is in {file} to {name}. Say the text, where it went, and the message.",
        name=name, file=file,
    )  # fmt: skip
    listed = d.call("I list the files.", "list_files")
    text = d.call(f"I read {file}.", "read_file", name=file)
    send(d, name, text, listed)


def walk(d: Draft) -> None:
    a, b = d.drawn.sample(range(2, 30), 2)
    one, to = d.drawn.choice((("miles", "kilometres"), ("kilometres", "miles"), ("feet", "metres"), ("metres", "feet")))
    d.ask(
        "A walk has {a} {one} and {b} {to}. How much is the first part in {to}, and how long is all of it?",
        "I walk {a} {one} and then {b} {to}. Tell me the first part and the whole way in {to}.",
        "First {a} {one}, then {b} {to}: what is the first in {to}, and what is the sum?",
        "Turn {a} {one} into {to} and add {b} {to}. Give me the part and the total.",
        "How far is it in {to} if I go {a} {one} and {b} {to} more, and how far is the first stretch?",
        "What are {a} {one} in {to}, and with {b} {to} more?",
        a=a, b=b, one=one, to=to,
    )  # fmt: skip
    text = d.call(f"I convert {a} {one}.", "convert_units", value=a, unit=one, to=to)
    part = behind(r"([0-9.]+)", text)
    total = d.call("Now the sum.", "calculate", expression=f"{part} + {b}")
    d.finish(f"The first part is {part} {to}, all is {total} {to}.", part, total)


def no_product(d: Draft) -> None:
    products = d.state["shop"]["products"]
    kind = d.drawn.choice(sorted({own[0] for own in products.values()}))
    product = d.pick([name for name in values.PRODUCTS if name.endswith(f" {kind}") and name not in products])
    d.ask(
        "Order a {product} and tell me its price and the order number.",
        "I want to buy one {product}. What does it cost, and what is the number of the order?",
        "Please buy me a {product} and say what it costs and which order it is.",
        "How much is a {product}? Order one and give me the order number.",
        "One {product}, please: the price first, then the number of the order.",
        "Get me a {product}; name the price and the order.",
        product=product,
    )  # fmt: skip
    found = d.call(f"I need the price of the {product}.", "get_price", product=product)
    d.call(f"Is there a {kind} of that name?", "find_products", kind=kind)
    d.give_up(f"There is no {product}.", found.removeprefix("error: "))


def no_event(d: Draft) -> None:
    old, new = d.drawn.sample(d.state["calendar"]["events"], 2)
    title = d.pick([one for one in values.EVENTS if one not in [event[2] for event in d.state["calendar"]["events"]]])
    d.ask(
        *MOVE,
        title=title, old=old[0], new=new[0],
    )  # fmt: skip
    listed = d.call(f"I look when {title} is.", "list_events", date=old[0])
    d.give_up(f"There is no {title} on that day.", listed)


def no_contact(d: Draft) -> None:
    city, days = d.drawn.choice(sorted(d.state["weather"].items()))
    day = d.drawn.choice(sorted(days))
    name = d.pick([one for one in values.PEOPLE if one not in d.state["contacts"]["people"]])
    d.ask(
        *TELL,
        name=name, city=city, day=day,
    )  # fmt: skip
    d.call(f"I need the weather of {city}.", "get_weather", city=city, date=day)
    found = d.call(f"I need the address of {name}.", "find_contact", name=name)
    d.give_up(f"Nobody is called {name}.", found.removeprefix("error: "))


TASKS: tuple[Shape, ...] = (
    order, cheaper, book, move, umbrella, warmer, recipe, pay_rise, team, tell_weather, shopping_list, price_abroad,
    overview, walk,
)  # fmt: skip
NOT_THERE: tuple[Shape, ...] = (no_product, no_event, no_contact)
"""tasks that must be given up, since something is not there"""
