"""The first process of a sandbox: it gives up rights, takes limits, and becomes the command. Run with `python -I -S`.

Its argument is a descriptor to read JSON from: `limits` (name of an RLIMIT -> value), `uid` to become or null, `mounts`
(`plan` and `root`) where no bubblewrap has made them, `report` (a descriptor that is told when all is in place, and
before that the number of the process where it is asked to `tell`), `descriptors` (number that the command sees ->
number here), `filter`, `folder` and `command`.
"""

import fcntl
import json
import os
import resource
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120

import ctypes

import filter
import mounts

DROP_BOUND, KEEP_NO_RIGHTS_OF_ROOT, SECURE_BITS = 24, 0b100011, 28
LAST_CAPABILITY = 40
END_WITH_PARENT = 1


def main() -> None:
    with open(int(sys.argv[1])) as request:  # noqa: PTH123
        asked = json.load(request)
    report = asked["report"]
    os.set_inheritable(report, False)
    if asked["tell"]:
        os.write(report, b'"child-pid": %d\n' % int(os.readlink("/proc/self")))  # noqa: PTH115
    if asked["mounts"] is not None:
        mounts.raise_loopback()
        mounts.enter(**asked["mounts"])
    with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")  # the kernel ends it first if memory runs out
    _give_up_rights(asked["uid"])
    for name, value in asked["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    os.chdir(asked["folder"])
    if asked["filter"]:
        filter.install()
    os.write(report, b"ready\n")
    _place_descriptors({int(to): at for to, at in asked["descriptors"].items()})
    try:
        os.execvp(asked["command"][0], asked["command"])
    except OSError as error:
        sys.stderr.write(f"{asked['command'][0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _give_up_rights(uid: int | None) -> None:
    """Become this user, if any, and lose every capability for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for number in range(LAST_CAPABILITY + 1):
            libc.prctl(DROP_BOUND, number, 0, 0, 0)
        libc.prctl(SECURE_BITS, KEEP_NO_RIGHTS_OF_ROOT, 0, 0, 0)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    libc.prctl(END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)  # another user's process has lost it
    with open("/proc/self/status") as file:  # noqa: PTH123
        bounds = [line for line in file if line.startswith("CapEff:")]
    if uid is not None and int(bounds[0].split()[1], 16):
        raise PermissionError("capabilities are left")


def _place_descriptors(wanted: dict[int, int]) -> None:
    """Put descriptors at the numbers that the command expects, and close all others."""
    above = 3 + len(wanted)
    held = {to: fcntl.fcntl(at, fcntl.F_DUPFD, above) for to, at in wanted.items()}
    for to, at in held.items():
        os.dup2(at, to)
    os.closerange(above, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


if __name__ == "__main__":
    main()
