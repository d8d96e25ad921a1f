"""The tools of the small worlds: methods that read and change the state of an app, which is plain JSON.

Their docstrings are what a model reads, by `transformers.utils.get_json_schema`.
"""

import ast
import operator
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import date as Day
from typing import Any

State = dict[str, Any]
HOURS = [f"{hour:02d}:00" for hour in range(8, 19)]
LONGEST = 500
"""characters of a text that a tool takes"""


class Refused(Exception):
    """What a tool says instead of a result."""


class App:
    """Some tools with their state.

    Args:
        whole: the state of the world; the app's own lies under its name.
    """

    name = ""
    tools: tuple[str, ...] = ()

    def __init__(self, whole: State):
        self.whole = whole
        self.state: State = whole[self.name]

    def number(self, letter: str) -> str:
        """That of the next order, event or message."""
        self.state["next"] += 1
        return f"{letter}{self.state['next'] - 1}"

    def date(self, text: str) -> str:
        """A date as YYYY-MM-DD, from how this world writes it."""
        dots = self.whole.get("dates") == "dots"
        try:
            if dots and re.fullmatch(r"\d\d\.\d\d\.\d{4}", text):
                day, month, year = text.split(".")
                return Day(int(year), int(month), int(day)).isoformat()
            if not dots and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                return Day.fromisoformat(text).isoformat()
        except ValueError:
            raise Refused(f"there is no day {text}") from None
        raise Refused(f"write the date as {'DD.MM.YYYY' if dots else 'YYYY-MM-DD'}")


def short(text: str) -> str:
    if len(text) > LONGEST:
        raise Refused(f"the text has more than {LONGEST} characters")
    return text


def among(name: str, known: Iterable[str]) -> str:
    """A name, in any case, as it is known; empty if it is not."""
    return next((one for one in known if one.casefold() == name.strip().casefold()), "")


def plain(number: float) -> str:
    """A number with two digits behind the point at most, none where they are zero."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


class Calendar(App):
    name = "calendar"
    tools = ("list_events", "add_event", "move_event")

    def list_events(self, date: str) -> str:
        """The events of a day

        Args:
            date: the day
        """
        day = self.date(date)
        found = sorted((time, title) for on, time, title, _ in self.state["events"] if on == day)
        return ", ".join(f"{time} {title}" for time, title in found) or "no events"

    def add_event(self, title: str, date: str, time: str) -> str:
        """Put an event into the calendar

        Args:
            title: what it is
            date: the day
            time: HH:00
        """
        day, hour = self.date(date), self._free(self.date(date), time)
        number = self.number("E")
        self.state["events"].append([day, hour, short(title), number])
        return f"event {number}"

    def move_event(self, title: str, date: str, time: str) -> str:
        """Move an event to another day or time

        Args:
            title: the event
            date: the new day
            time: HH:00
        """
        event = next((one for one in self.state["events"] if among(title, [one[2]])), None)
        if event is None:
            raise Refused(f"no event {title}")
        day = self.date(date)
        event[:2] = [day, self._free(day, time)]
        return f"moved event {event[3]}"

    def _free(self, day: str, time: str) -> str:
        if time not in HOURS:
            raise Refused(f"the time is a full hour from {HOURS[0]} to {HOURS[-1]}")
        taken = {one[1] for one in self.state["events"] if one[0] == day}
        if time in taken:
            later = next((hour for hour in HOURS if hour > time and hour not in taken), "none")
            raise Refused(f"{time} is taken, next free: {later}")
        return time


class Weather(App):
    name = "weather"
    tools = ("get_weather",)

    def get_weather(self, city: str, date: str) -> str:
        """Forecast for a city

        Args:
            city: the city
            date: the day
        """
        known = among(city, self.state)
        if not known:
            raise Refused(f"no forecast for {city}")
        found = self.state[known].get(self.date(date))
        if found is None:
            raise Refused("no forecast for that day")
        return f"{found[0]} C, {found[1]}"


class Shop(App):
    name = "shop"
    tools = ("find_products", "get_price", "check_stock", "place_order")

    def find_products(self, kind: str) -> str:
        """Products of a kind

        Args:
            kind: such as lamp
        """
        found = [name for name, product in self.state["products"].items() if among(kind, [product[0]])]
        return ", ".join(found) or "none"

    def get_price(self, product: str) -> str:
        """Price of one piece

        Args:
            product: its name
        """
        return f"{self._of(product)[1][1]} EUR"

    def check_stock(self, product: str) -> str:
        """How many are left

        Args:
            product: its name
        """
        return f"{self._of(product)[1][2]} left"

    def place_order(self, product: str, quantity: int) -> str:
        """Order a product

        Args:
            product: its name
            quantity: how many
        """
        name, own = self._of(product)
        if quantity < 1:
            raise Refused("order at least 1")
        if quantity > own[2]:
            raise Refused(f"only {own[2]} left" if own[2] else "sold out")
        own[2] -= quantity
        number = self.number("A")
        self.state["orders"].append([number, name, quantity])
        return f"order {number}"

    def _of(self, product: str) -> tuple[str, list[Any]]:
        known = among(product, self.state["products"])
        if not known:
            raise Refused(f"no product {product}")
        return known, self.state["products"][known]


OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


class Calculator(App):
    name = "calculator"
    tools = ("calculate",)

    def calculate(self, expression: str) -> str:
        """Compute with + - * /

        Args:
            expression: such as 3 * 12
        """
        try:
            return plain(_value(ast.parse(expression[:100].strip(), mode="eval").body))
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
            raise Refused("that is no sum; write such as 3 * 12") from None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    raise ValueError


UNITS = {
    "kilograms": ("kg", 1000.0), "grams": ("g", 1.0), "pounds": ("lb", 453.59237), "ounces": ("oz", 28.349523),
    "kilometres": ("km", 1000.0), "metres": ("m", 1.0), "miles": ("mi", 1609.344), "feet": ("ft", 0.3048),
}  # fmt: skip
"""word -> code, and how many grams or metres it is; the first four are of mass"""


class Units(App):
    name = "units"
    tools = ("convert_units",)

    def convert_units(self, value: float, unit: str, to: str) -> str:
        """Convert between units

        Args:
            value: the number
            unit: its unit
            to: the wanted unit
        """
        one, other = self._of(unit), self._of(to)
        words = list(UNITS)
        if (words.index(one) < 4) != (words.index(other) < 4):
            raise Refused(f"{unit} and {to} measure different things")
        return f"{plain(value * UNITS[one][1] / UNITS[other][1])} {to}"

    def _of(self, unit: str) -> str:
        codes = self.state["written"] == "codes"
        known = {code if codes else word: word for word, (code, _) in UNITS.items()}
        if unit not in known:
            raise Refused(f"units are {', '.join(known)}")
        return known[unit]


class Files(App):
    name = "files"
    tools = ("list_files", "read_file", "write_file")

    def list_files(self) -> str:
        """Names of all files"""
        return ", ".join(sorted(self.state)) or "no files"

    def read_file(self, name: str) -> str:
        """Text of a file

        Args:
            name: the file
        """
        if name not in self.state:
            raise Refused(f"no file {name}, there are {self.list_files()}")
        return self.state[name]

    def write_file(self, name: str, text: str) -> str:
        """Save a text

        Args:
            name: the file
            text: what it holds
        """
        if not re.fullmatch(r"[\w-]{1,30}\.txt", name):
            raise Refused("the name must end in .txt")
        self.state[name] = short(text)
        return f"saved {name}"


class Staff(App):
    name = "staff"
    tools = ("run_sql",)
    allowed = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_INSERT,
                         sqlite3.SQLITE_DELETE, sqlite3.SQLITE_FUNCTION})  # fmt: skip

    def run_sql(self, query: str) -> str:
        """Query the SQLite table staff

        Args:
            query: SQL
        """
        columns = self.state["columns"]
        with closing(sqlite3.connect(":memory:")) as base:
            base.execute(f"CREATE TABLE staff ({', '.join(columns)})")
            base.executemany(f"INSERT INTO staff VALUES ({', '.join('?' * len(columns))})", self.state["rows"])
            base.commit()
            base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
            steps = iter(range(1000))
            base.set_progress_handler(lambda: next(steps, -1) == -1, 1000)
            base.set_authorizer(lambda what, *_: sqlite3.SQLITE_OK if what in self.allowed else sqlite3.SQLITE_DENY)
            base.isolation_level = None
            try:
                done = base.execute(short(query))
                found = done.fetchmany(20)
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                raise Refused(f"{error}; the columns are {', '.join(columns)}") from None
            base.set_authorizer(None)
            base.set_progress_handler(None, 0)
            rows = [list(row) for row in base.execute("SELECT * FROM staff ORDER BY rowid")]
        if done.description is not None:
            return "; ".join(", ".join(_shown(value) for value in row) for row in found) or "no rows"
        if done.rowcount < 0:
            raise Refused("that is no query")
        self.state["rows"] = [[_shown(v) if isinstance(v, bytes) else v for v in row] for row in rows]
        return f"changed {done.rowcount} rows"


def _shown(value: Any) -> str:
    return plain(value) if isinstance(value, float) else "NULL" if value is None else str(value)


class Contacts(App):
    name = "contacts"
    tools = ("find_contact", "send_message")

    def find_contact(self, name: str) -> str:
        """Address of a person

        Args:
            name: the person
        """
        known = among(name, self.state["people"])
        if not known:
            raise Refused(f"no contact {name}")
        return self.state["people"][known]

    def send_message(self, to: str, text: str) -> str:
        """Send a text

        Args:
            to: the address
            text: what to say
        """
        if to not in self.state["people"].values():
            raise Refused(f"no address {to}")
        number = self.number("M")
        self.state["sent"].append([number, to, short(text)])
        return f"message {number}"


class Money(App):
    name = "money"
    tools = ("exchange_money",)

    def exchange_money(self, amount: float, currency: str, to: str) -> str:
        """Change money into another currency

        Args:
            amount: how much
            currency: such as EUR
            to: such as CHF
        """
        for one in (currency, to):
            if one not in self.state:
                raise Refused(f"currencies are {', '.join(self.state)}")
        return f"{plain(amount * self.state[to] / self.state[currency])} {to}"
