"""Own completions: a run of the claim, as short as one can be, is carried out and said."""

import argparse
import re

import own_answers
import pytest


@pytest.mark.slow
def test_what_is_said_of_a_run_holds_its_measures(tmp_path):
    args = argparse.Namespace(policy="characters-1m", tasks=4, batch=8, steps=1)
    found = own_answers.trained("grpo", own_answers.LEARNING["grpo"], 0, args, tmp_path, 3e-4)
    assert found["after"].keys() >= {"pass_at_1", "entropy", "kl_to_initial"}
    kl = re.search(r"KL to the initial policy ([\d.]+),", own_answers.shown(found))
    assert kl is not None
    assert float(kl[1]) == pytest.approx(found["after"]["kl_to_initial"], abs=1e-3)
