"""The lines of a terminal: by number, by time, and whatever bytes come."""

import time

import pytest

from trimtab.gym.ring import Ring, text_of


class Clock:
    now = 1.0

    def __call__(self) -> float:
        return self.now


def texts(lines):
    return [line.text for line in lines]


def test_lines_are_sliced_from_the_end():
    ring = Ring()
    ring.feed(b"".join(b"%d\n" % number for number in range(10)))
    assert texts(ring.slice(3)) == ["7", "8", "9"]
    assert texts(ring.slice(4, 2)) == ["6", "7"]
    assert texts(ring.slice(99)) == [str(number) for number in range(10)]
    assert texts(ring.slice(2, 5)) == []
    assert texts(ring.slice(99, 10)) == texts(ring.slice(99, 13)) == []


def test_lines_are_found_by_their_time():
    clock = Clock()
    ring = Ring(clock=clock)
    ring.feed(b"early\n")
    clock.now = 5.0
    ring.feed(b"late\nopen")
    assert texts(ring.since(5.0)) == ["late", "open"]
    assert texts(ring.since(5.1)) == []


def test_only_the_last_lines_are_kept_and_all_are_counted():
    ring = Ring(kept=100)
    ring.feed(b"x\n" * 250)
    ring.feed(b"".join(b"%d\n" % number for number in range(250)))
    assert ring.total == 500
    assert texts(ring.lines()) == [str(number) for number in range(150, 250)]


def test_a_line_in_pieces_is_one_line():
    ring = Ring()
    for piece in (b"ab", b"c", b"d\ne"):
        ring.feed(piece)
    assert texts(ring.lines()) == ["abcd", "e"]
    assert ring.total == 1


def test_a_character_cut_between_two_reads_is_whole():
    ring = Ring()
    data = "größer\n".encode()
    for at in range(len(data)):
        ring.feed(data[at : at + 1])
    assert texts(ring.lines()) == ["größer"]


def test_a_line_that_never_ends_takes_bounded_memory():
    ring = Ring(kept=50, longest=100)
    for _ in range(3000):
        ring.feed(b"z" * 1000)
    lines = ring.lines()
    assert len(lines) <= 50 + 4
    assert {len(line.text) for line in lines[:-1]} == {100}


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
def test_a_line_that_never_ends_is_cut_between_characters(before, character):
    ring = Ring(longest=10)
    data = (before + 300 * character).encode()
    for at in range(0, len(data), 7):
        ring.feed(data[at : at + 7])
    assert "".join(texts(ring.lines())) == before + 300 * character


def test_a_progress_bar_shows_its_last_state():
    ring = Ring()
    ring.feed(b" 10%\r 50%\r100%\r\nnext\r\n")
    assert texts(ring.lines()) == ["100%", "next"]


def test_bytes_that_are_no_text_are_shown_as_such():
    ring = Ring()
    ring.feed(b"\x00\x01a\xff\xfe\x1b[31mred\n")
    assert texts(ring.lines()) == ["\ufffd\ufffda\ufffd\ufffd\ufffd[31mred"]


def test_lines_after_a_mark_are_those_that_came_since():
    ring = Ring(kept=10)
    ring.feed(b"a\nb\n")
    mark = ring.mark
    ring.feed(b"c\nd\ne")
    assert texts(ring.after(mark)) == ["c", "d", "e"]
    ring.feed(b"\n" + b"x\n" * 20)
    assert len(ring.after(mark)) == 10
    assert (ring.missed(mark), ring.missed(ring.mark)) == (13, 0)
    mark = ring.mark
    ring.feed(b"y\n" * 15)  # more than are kept, at once
    assert (ring.missed(mark), texts(ring.after(mark))) == (5, ["y"] * 10)


def test_a_cleared_ring_is_empty():
    ring = Ring()
    ring.feed(b"a\nb")
    ring.clear()
    assert ring.lines() == []


@pytest.mark.parametrize("line", [b"y\n", b"a line of forty characters, as they are\n"])
def test_a_million_lines_are_read_in_less_than_a_second_of_work(line):
    ring, block = Ring(), line * ((1 << 20) // len(line))
    began = time.process_time()
    for _ in range(1_000_000 // (len(block) // len(line)) + 1):
        ring.feed(block)
    assert ring.total >= 1_000_000
    assert time.process_time() - began < 1.0 * 5  # five times what a slow machine needs
    assert len(text_of(ring.lines())) < 10_000 * 50
