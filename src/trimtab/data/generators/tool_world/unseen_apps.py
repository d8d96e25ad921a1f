"""Tools that no training row offers."""

from trimtab.data.generators.tool_world.apps import App, Refused, among, plain

WARMEST = 24
"""degrees that a room may be set to at most"""


class Bank(App):
    name = "bank"
    tools = ("get_balance", "transfer_money")

    def get_balance(self, account: str) -> str:
        """Money in an account

        Args:
            account: its name
        """
        return f"{plain(self.state['accounts'][self._of(account)])} EUR"

    def transfer_money(self, source: str, target: str, amount: float) -> str:
        """Move money between accounts

        Args:
            source: account to take from
            target: account to put into
            amount: EUR
        """
        one, other = self._of(source), self._of(target)
        if amount <= 0:
            raise Refused("move more than 0 EUR")
        if amount > self.state["accounts"][one]:
            raise Refused(f"{one} has too little")
        self.state["accounts"][one] -= amount
        self.state["accounts"][other] += amount
        return f"transfer {self.number('T')}"

    def _of(self, account: str) -> str:
        known = among(account, self.state["accounts"])
        if not known:
            raise Refused(f"no account {account}")
        return known


class Trains(App):
    name = "trains"
    tools = ("find_trains", "book_seat")

    def find_trains(self, origin: str, destination: str) -> str:
        """Trains between two cities

        Args:
            origin: from where
            destination: to where
        """
        found = [
            f"{train} at {time}"
            for train, (start, end, time, _) in self.state["trains"].items()
            if among(origin, [start]) and among(destination, [end])
        ]
        return ", ".join(found) or "no trains"

    def book_seat(self, train: str) -> str:
        """Book a seat

        Args:
            train: its number
        """
        known = among(train, self.state["trains"])
        if not known:
            raise Refused(f"no train {train}")
        own = self.state["trains"][known]
        if own[3] < 1:
            raise Refused(f"{known} is full")
        own[3] -= 1
        number = self.number("S")
        self.state["seats"].append([number, known])
        return f"seat {number}"


class Library(App):
    name = "library"
    tools = ("find_book", "reserve_book")

    def find_book(self, author: str) -> str:
        """Books of an author

        Args:
            author: the name
        """
        found = [title for title, (by, _) in self.state["books"].items() if among(author, [by])]
        return ", ".join(found) or "no books"

    def reserve_book(self, title: str) -> str:
        """Reserve a book

        Args:
            title: the book
        """
        known = among(title, self.state["books"])
        if not known:
            raise Refused(f"no book {title}")
        own = self.state["books"][known]
        if own[1] < 1:
            raise Refused("all copies are out")
        own[1] -= 1
        number = self.number("R")
        self.state["reserved"].append([number, known])
        return f"reservation {number}"


class Home(App):
    name = "home"
    tools = ("get_temperature", "set_temperature")

    def get_temperature(self, room: str) -> str:
        """Degrees in a room

        Args:
            room: the room
        """
        return f"{self.state[self._of(room)][0]} C"

    def set_temperature(self, room: str, degrees: int) -> str:
        """Heat a room

        Args:
            room: the room
            degrees: in C
        """
        known = self._of(room)
        if degrees > WARMEST:
            raise Refused(f"at most {WARMEST} C")
        self.state[known][1] = degrees
        return f"heating to {degrees} C"

    def _of(self, room: str) -> str:
        known = among(room, self.state)
        if not known:
            raise Refused(f"no room {room}")
        return known
