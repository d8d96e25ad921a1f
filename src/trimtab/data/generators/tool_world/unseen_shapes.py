"""Tasks that no training row has: of tools that training rows use, and of tools that they do not."""

from trimtab.data.generators.tool_world import values
from trimtab.data.generators.tool_world.draft import Draft, behind, failed
from trimtab.data.generators.tool_world.shapes import Shape, send
from trimtab.data.generators.tool_world.unseen_apps import WARMEST

# ---------------------------------------------------------------- of tools that training rows use


def weather_file(d: Draft) -> None:
    city, days = d.drawn.choice(sorted(d.state["weather"].items()))
    day, name = d.drawn.choice(sorted(days)), d.drawn.choice(sorted(d.state["files"]))
    d.ask(
        "Save the forecast for {city} on {day} in the file {name}. What does it say, and what stood in the file?",
        city=city, day=day, name=name,
    )  # fmt: skip
    old = d.call(f"I read what is in {name}.", "read_file", name=name)
    sky = d.call(f"I need the weather of {city}.", "get_weather", city=city, date=day)
    d.call("I save it.", "write_file", name=name, text=sky)
    d.finish(f"The forecast is {sky}. The file said {old}.", sky, old)


def pay_message(d: Draft) -> None:
    staff = d.state["staff"]
    name = d.drawn.choice(staff["rows"])[0]
    other = d.drawn.choice([one for one in sorted(d.state["contacts"]["people"]) if one != name])
    d.ask(
        "Tell {other} what {name} earns by the table staff. Say the text, the address and the message number.",
        other=other, name=name,
    )  # fmt: skip
    where = f"WHERE name = '{name}'"
    found = d.call(f"I look up the pay of {name}.", "run_sql", query=f"SELECT salary FROM staff {where}")
    if failed(found):
        column = staff["columns"][2]
        found = d.call(f"The column is called {column}.", "run_sql", query=f"SELECT {column} FROM staff {where}")
    send(d, other, found)


def remind(d: Draft) -> None:
    day = d.drawn.choice(d.state["calendar"]["events"])[0]
    name = d.drawn.choice(sorted(d.state["contacts"]["people"]))
    d.ask(
        "Send {name} my events of {day} as they are listed. Say the text, the address and the message number.",
        name=name, day=day,
    )  # fmt: skip
    send(d, name, d.call("I look at the day.", "list_events", date=day))


def planned_in_file(d: Draft) -> None:
    day, taken, *_ = d.drawn.choice(d.state["calendar"]["events"])
    name = d.drawn.choice(sorted(d.state["files"]))
    title = d.state["files"][name]
    time = taken if d.chance(0.5) else "18:00"
    asked = name.removesuffix(".txt") if d.chance(0.35) else name
    d.ask(
        "Put the text of {name} into the calendar, {day} at {time} or the next free hour. Say the text and the number.",
        name=asked, day=day, time=time,
    )  # fmt: skip
    text = d.call("I read the file.", "read_file", name=asked)
    if failed(text):
        text = d.call(f"The file is called {name}.", "read_file", name=name)
    done = d.call(f"I add {title} at {time}.", "add_event", title=title, date=day, time=time)
    if failed(done):
        free = behind(r"next free: (\S+)", done)
        done = d.call(f"{time} is taken, so I take {free}.", "add_event", title=title, date=day, time=free)
    number = behind(r"event (\w+)", done)
    d.finish(f"The text is {text}, it is event {number}.", text, number)


def price_file(d: Draft) -> None:
    product, own = d.drawn.choice(sorted(d.state["shop"]["products"].items()))
    currency = d.drawn.choice([one for one in d.state["money"] if one != "EUR"])
    name = d.drawn.choice(sorted(d.state["files"]))
    d.ask(
        "Write the price of the {product} in {currency} into {name}. Say it in EUR and in {currency}.",
        product=product, currency=currency, name=name,
    )  # fmt: skip
    price = d.call(f"I need the price of the {product}.", "get_price", product=product)
    there = d.call(f"Now the price in {currency}.", "exchange_money", amount=own[1], currency="EUR", to=currency)
    d.call("I save it.", "write_file", name=name, text=there)
    d.finish(f"It costs {price} or {there}.", price, there)


def not_in_staff(d: Draft) -> None:
    known = [row[0] for row in d.state["staff"]["rows"]]
    name = d.pick([one for one in values.PEOPLE if one not in known])
    d.ask("Write the team of {name}, by the table staff, into {file}. Say the team.", name=name,
          file=d.drawn.choice(sorted(d.state["files"])))  # fmt: skip
    found = d.call(f"I look up {name}.", "run_sql", query=f"SELECT team FROM staff WHERE name = '{name}'")
    d.give_up(f"There is no {name} in staff.", found)


# ---------------------------------------------------------------- of tools that training rows do not use


def transfer(d: Draft) -> None:
    accounts = d.state["bank"]["accounts"]
    first, second, target = d.drawn.sample(sorted(accounts), 3)
    amount = d.drawn.randint(2, 20) * 10 + 5
    accounts[first] = amount - 15 if d.chance(0.5) else amount + 30
    accounts[second] = amount + 50
    d.ask(
        "Move {amount} EUR from {first} to {target}, from {second} if it has too little. Say the number and what "
        "{target} has then.",
        amount=amount, first=first, second=second, target=target,
    )  # fmt: skip
    done = d.call(f"I take it from {first}.", "transfer_money", source=first, target=target, amount=amount)
    if failed(done):
        done = d.call(f"I take it from {second}.", "transfer_money", source=second, target=target, amount=amount)
    now = d.call(f"What does {target} have?", "get_balance", account=target)
    number = behind(r"transfer (\w+)", done)
    d.finish(f"It is transfer {number}, and {target} has {now}.", number, now)


def trip(d: Draft) -> None:
    trains = d.state["trains"]["trains"]
    first, second = trains
    origin, destination, *_ = trains[first]
    if d.chance(0.5):
        trains[first][3] = 0
    d.ask(
        "Book the first train from {origin} to {destination} that is not full. Name the trains and the seat.",
        origin=origin, destination=destination,
    )  # fmt: skip
    listed = d.call("I look for trains.", "find_trains", origin=origin, destination=destination)
    done = d.call(f"I book {first}.", "book_seat", train=first)
    if failed(done):
        done = d.call(f"{first} is full, so I book {second}.", "book_seat", train=second)
    number = behind(r"seat (\w+)", done)
    d.finish(f"There are {listed}. The seat is {number}.", listed, number)


def borrow(d: Draft) -> None:
    title, (author, _) = d.drawn.choice(sorted(d.state["library"]["books"].items()))
    day = d.pick(values.DAYS)
    d.ask(
        "Reserve the book of {author} and put library into the calendar on {day} at 09:00. Name the book and both "
        "numbers.",
        author=author, day=day,
    )  # fmt: skip
    d.state["calendar"]["events"] = [one for one in d.state["calendar"]["events"] if one[0] != day]
    d.call(f"I look for books of {author}.", "find_book", author=author)
    reserved = behind(r"reservation (\w+)", d.call(f"I reserve {title}.", "reserve_book", title=title))
    done = d.call("Now the calendar.", "add_event", title="library", date=day, time="09:00")
    number = behind(r"event (\w+)", done)
    d.finish(f"{title} is reservation {reserved}, and event {number}.", title, reserved, number)


def heat(d: Draft) -> None:
    room = d.drawn.choice(sorted(d.state["home"]))
    wanted = d.drawn.randint(WARMEST + 1, 30) if d.chance(0.4) else d.drawn.randint(18, WARMEST)
    d.ask(
        "Heat the {room} to {wanted} C, or as warm as it goes. How warm is it there now, and what will it be?",
        room=room, wanted=wanted,
    )  # fmt: skip
    now = d.call(f"I look how warm the {room} is.", "get_temperature", room=room)
    done = d.call(f"I heat it to {wanted}.", "set_temperature", room=room, degrees=wanted)
    if failed(done):
        done = d.call(f"It goes to {WARMEST}.", "set_temperature", room=room, degrees=WARMEST)
    later = behind(r"(\d+ C)", done)
    d.finish(f"It is {now} now and will be {later}.", now, later)


def cold_day(d: Draft) -> None:
    city, days = d.drawn.choice(sorted(d.state["weather"].items()))
    room, day = d.drawn.choice(sorted(d.state["home"])), d.drawn.choice(sorted(days))
    d.ask(
        "Heat the {room} to 22 C if there is less than 15 C in {city} on {day}, else to 18 C. Say the forecast and "
        "what you did.",
        room=room, city=city, day=day,
    )  # fmt: skip
    d.state["weather"][city][day][0] = d.drawn.choice([9, 11, 13, 16, 19, 26, 30])
    sky = d.call(f"I need the weather of {city}.", "get_weather", city=city, date=day)
    degrees = 22 if int(behind(r"(\d+) C", sky)) < 15 else 18
    done = d.call(f"It is {sky}, so I heat to {degrees}.", "set_temperature", room=room, degrees=degrees)
    later = behind(r"(\d+ C)", done)
    d.finish(f"It will be {sky}. I heat to {later}.", sky, later)


def no_account(d: Draft) -> None:
    d.ask(
        "Move {amount} EUR from {first} to the account {name}. Say the number and what {name} has then.",
        amount=d.drawn.randint(1, 9), first=d.drawn.choice(sorted(d.state["bank"]["accounts"])),
        name=(name := d.pick(values.PEOPLE)),
    )  # fmt: skip
    found = d.call(f"I look at the account {name}.", "get_balance", account=name)
    d.give_up(f"There is no account {name}.", found.removeprefix("error: "))


TEMPLATES: tuple[Shape, ...] = (weather_file, pay_message, remind, planned_in_file, price_file)
TEMPLATES_NOT_THERE: tuple[Shape, ...] = (not_in_staff,)
TOOLS: tuple[Shape, ...] = (transfer, trip, borrow, heat, cold_day)
TOOLS_NOT_THERE: tuple[Shape, ...] = (no_account,)
