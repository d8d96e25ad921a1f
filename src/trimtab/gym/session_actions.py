"""Actions on terminal sessions."""

import time
from collections.abc import Callable
from typing import Any

from trimtab.common.count import count
from trimtab.gym import actions
from trimtab.gym.file_actions import Done
from trimtab.gym.observation import LONGEST, ActionFailed, truncated
from trimtab.gym.ring import OutputLine, Ring, text_of
from trimtab.gym.session import GRACE, Session, SessionError

WAITING = 10.0
"""seconds that a command is waited for"""
MOST = 16
"""sessions at a time"""
COMMAND = 1_000
"""characters of a command that the state of a session shows"""


class SessionActions:
    """What an agent does with terminals.

    Args:
        open: a new session of this name.
        left: seconds of the episode that are left: no action waits longer.
        over: whether the episode is over, for whatever reason.
    """

    def __init__(self, open: Callable[[str], Session], left: Callable[[], float], over: Callable[[], object]):
        self._open, self._left, self._over = open, left, over
        self.sessions: dict[str, Session] = {}
        self.handlers = {
            actions.RunCommand: self.run,
            actions.CreateSession: self.create,
            actions.ListSessions: self.list_all,
            actions.CloseSession: self.close,
            actions.CloseAllSessions: self.close_all,
            actions.GetSessionOutput: self.output,
            actions.GetSessionRecentOutput: self.recent,
            actions.GetSessionStatus: self.status,
            actions.CheckSessionIdle: self.check_idle,
            actions.InputInSession: self.input,
            actions.ClearSessionBuffer: self.clear,
            actions.KillSessionProcesses: self.kill,
        }

    def run(self, action: actions.RunCommand) -> Done:
        session = self.sessions.get(action.session_id)
        if session is None or not session.alive:
            session = self._new(action.session_id)
        fields = {"session_id": action.session_id, "command": action.command, "async": not action.wait_for_completion}
        mark, began = session.ring.mark, time.monotonic()
        session.run(action.command)
        if not action.wait_for_completion:
            return "the command was started", fields
        done = session.wait(min(WAITING, self._left()), lambda: session.idle or bool(self._over()))
        fields |= {
            "execution_time": round(time.monotonic() - began, 3),
            "exit_code": session.last_status,
            "output": _since(session.ring, mark),
        }
        if session.killed_because:
            raise ActionFailed(f"it was killed: {session.killed_because}", fields)
        if not (done and session.idle):
            why = f"the command took longer than {WAITING:g} seconds"
            for _ in range(2):  # its processes, and its shell where that goes on
                session.stop(why)
                session.wait(GRACE, lambda: session.idle)
            ended = "" if session.alive else ", and its session with it"
            raise ActionFailed(f"{why} and was killed{ended}; run it without waiting", fields)
        return f"exit code {session.last_status}", fields

    def create(self, action: actions.CreateSession) -> Done:
        if action.session_id in self.sessions:
            raise SessionError(f"there is a session {action.session_id} already")
        self._new(action.session_id)
        return f"session {action.session_id} is open", {"session_id": action.session_id}

    def list_all(self, _: actions.ListSessions) -> Done:
        return f"{len(self.sessions)} sessions", {"sessions": [self._state(one) for one in self.sessions.values()]}

    def close(self, action: actions.CloseSession) -> Done:
        self._session(action.session_id).close()
        del self.sessions[action.session_id]
        return f"session {action.session_id} is closed", {"session_id": action.session_id}

    def close_all(self, _: object = None) -> Done:
        number = len(self.sessions)
        for name in list(self.sessions):
            self.close(actions.CloseSession(session_id=name))
        return f"{number} sessions are closed", {}

    def output(self, action: actions.GetSessionOutput) -> Done:
        ring = self._session(action.session_id).ring
        since = action.since_timestamp
        lines = ring.slice(action.start_lines, action.end_lines) if since is None else ring.since(since)
        return self._lines(action.session_id, lines)

    def recent(self, action: actions.GetSessionRecentOutput) -> Done:
        ring = self._session(action.session_id).ring
        return self._lines(action.session_id, ring.since(ring.clock() - action.seconds))

    def status(self, action: actions.GetSessionStatus) -> Done:
        session = self._session(action.session_id)
        state = self._state(session)
        said = "has ended" if not session.alive else "is idle" if state["idle"] else "is busy"
        return f"session {action.session_id} {said}", state

    def check_idle(self, action: actions.CheckSessionIdle) -> Done:
        idle = self._session(action.session_id).idle
        said = "idle" if idle else "busy"
        return f"session {action.session_id} is {said}", {"session_id": action.session_id, "idle": idle}

    def input(self, action: actions.InputInSession) -> Done:
        sent = self._session(action.session_id).input(action.input_text)
        whole = len(action.input_text.encode(errors="replace"))
        if sent < whole:
            raise SessionError(f"there was room for {sent} of {whole} bytes; nothing seems to read them")
        return "typed", {"session_id": action.session_id}

    def clear(self, action: actions.ClearSessionBuffer) -> Done:
        self._session(action.session_id).ring.clear()
        return "the output is forgotten", {"session_id": action.session_id}

    def kill(self, action: actions.KillSessionProcesses) -> Done:
        session = self._session(action.session_id)
        number = session.kill_processes(action.force)
        session.wait(min(1.0, self._left()), lambda: session.idle)
        fields = {"session_id": action.session_id, "idle": session.idle}
        said = f"{count(number, 'process', 'processes')} got {'SIGKILL' if action.force else 'SIGTERM'}"
        return said if session.idle else f"{said}; still busy: wait, or close the session", fields

    def sleep(self, action: actions.Sleep) -> Done:
        seconds = min(action.seconds, actions.SLEEP, self._left())
        began = time.monotonic()
        watched = None if action.session_id is None else self._session(action.session_id)
        if watched is not None:
            watched.wait(seconds, lambda: watched.idle or bool(self._over()))
        else:
            while (left := began + seconds - time.monotonic()) > 0 and not self._over():
                time.sleep(min(left, 0.05))
        fields: dict[str, Any] = {"slept": round(time.monotonic() - began, 3)}
        if watched is not None:
            fields |= {"session_id": watched.name, "idle": watched.idle}
        return f"slept {fields['slept']:g} seconds", fields

    def _new(self, name: str) -> Session:
        if name in self.sessions:  # it has ended
            self.close(actions.CloseSession(session_id=name))
        if len(self.sessions) >= MOST:
            raise SessionError(f"there are {MOST} sessions, no more are possible; close one")
        self.sessions[name] = self._open(name)
        return self.sessions[name]

    def _session(self, name: str) -> Session:
        if name not in self.sessions:
            there = ", ".join(self.sessions) or "none"
            raise SessionError(f"there is no session {name}; there are: {there}")
        return self.sessions[name]

    def _state(self, session: Session) -> dict[str, Any]:
        running = session.processes()
        return {
            "session_id": session.name,
            "alive": session.alive,
            "idle": session.idle,
            "processes": [{"pid": one.pid, "name": one.name} for one in running[:50]],
            "last_command": truncated(session.last_command, COMMAND),
            "last_exit_code": session.last_status,
            **({"killed_because": session.killed_because} if session.killed_because else {}),
        }

    def _lines(self, name: str, lines: list[OutputLine]) -> Done:
        """The newest 30,000 characters of them."""
        last, text, said = lines[-1].time if lines else None, text_of(lines), count(len(lines), "line")
        if len(text) > LONGEST:
            said += f", of which the newest {LONGEST:,} characters are shown"
        return said, {"session_id": name, "output": text[-LONGEST:], "last_timestamp": last}


def _since(ring: Ring, mark: int) -> str:
    """All that a command has written, as far as it is kept."""
    missed, text = ring.missed(mark), text_of(ring.after(mark))
    return f"[... {count(missed, 'line')} that are no longer kept ...]\n{text}" if missed else text
