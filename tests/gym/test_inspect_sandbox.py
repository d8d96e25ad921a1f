"""The sandbox as a provider of inspect_ai: inspect's own checks of providers, and an agent that uses it."""

import pytest

from tiny_gym import engine

pytest.importorskip("inspect_ai")

from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from trimtab.gym.on_inspect.sandbox import SandboxConfig, TrimtabSandbox

pytestmark = pytest.mark.anyio
SLOW = {"test_exec_timeout", "test_exec_timeout_kills_process", "test_exec_timeout_kills_child_processes"}
"""of inspect's checks, those that wait"""
KNOWN = {
    "test_exec_as_user": "there is one user",
    "test_exec_permission_error": "a sandbox has no /etc/passwd",
    "test_read_file_is_directory": "files outside of /workspace and /tmp are not read",
    "test_exec_as_nonexistent_user": "there is one user",
}
for name in SLOW:
    globals()[name] = pytest.mark.slow(globals()[name])


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def sandbox_env(request):
    engine()
    name = request.node.originalname
    if name in KNOWN:
        request.node.add_marker(pytest.mark.xfail(reason=KNOWN[name]))
    made = await TrimtabSandbox.sample_init("task", SandboxConfig(), {})
    yield made["default"]
    await TrimtabSandbox.sample_cleanup("task", None, made, False)
