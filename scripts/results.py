"""What of the papers' claims was reproduced here, with numbers that are read from benchmarks/results."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
LANGUAGE, SMALL = "SmolLM2-135M", "0.8 million weights"


class Result(NamedTuple):
    """A claim that was tested."""

    methods: str
    claim: str
    verdict: str
    scale: str
    numbers: str
    log: str
    """page of the log"""


@cache
def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def judged(difference: list[float], unit: str = "", swap: bool = False, digits: int = 3) -> tuple[str, str]:
    """Verdict and numbers of a difference that should be above 0: an estimate with its 95 % interval.

    Args:
        swap: the difference is stored the other way round.
    """
    low, middle, high = sorted(-value if swap else value for value in difference)
    verdict = "reproduced" if low > 0 else "the contrary" if high < 0 else "not shown"
    shown = (f"{value:+.{digits}f}" for value in (middle, low, high))
    return verdict, "{} [{}, {}]".format(*shown) + (f" {unit}" if unit else "")


def monotone(values: list[float], rising: bool, digits: int = 2) -> tuple[str, str]:
    """Verdict and numbers of values that should rise (or fall) throughout."""
    wanted = sorted(values, reverse=not rising)
    return "reproduced" if values == wanted else "not shown", ", ".join(f"{value:.{digits}f}" for value in values)


def results() -> Iterator[Result]:
    """All of them, by method."""
    yield from _distillation()
    yield from _fine_tuning()
    yield from _edits()
    yield from _alignment()
    yield from _reward_models()
    yield from _rl()


def _distillation() -> Iterator[Result]:
    language = read("claims_hpd_language")["differences"]
    scale = f"{LANGUAGE}, 3 seeds, 18 steps"
    kd = judged(language["sft - kd"]["forward_kl"], "nats")
    yield Result("kd", "nearer to the teacher than `sft`", kd[0], scale, kd[1], "distillation")
    apart = read("claims_kd_tokenizers")
    found = judged(apart["differences"]["nll: sft - kd"], "nats")
    claim = "smaller held-out loss than `sft` with a teacher of another tokenizer, from few rows"
    scale_apart = f"a small grammar, two layers, {len(apart['settings']['seeds'])} seeds, 48 rows"
    yield Result("kd", claim, found[0], scale_apart, found[1], "distillation")
    near = judged(language["hpd - sft"]["forward_kl"], "nats", swap=True)
    yield Result("hpd", "nearer to the teacher than `sft`", near[0], scale, near[1], "distillation")
    entropy = judged(language["hpd - sft"]["entropy"], "nats")
    yield Result("hpd", "keeps more entropy than `sft`", entropy[0], scale, entropy[1], "distillation")
    yield from _warmed_students()
    sums = read("claims_mcc_kd")["differences"]
    for key, claim, unit in (
        ("divergence, seen", "answers after two rationales nearer to each other than with alpha 0", "nats"),
        ("solved", "solves more sums than with alpha 0", ""),
    ):
        found = judged(sums[key], unit, swap=key != "solved")
        yield Result("mcc_kd", claim, found[0], "two layers, 3 seeds, 600 steps", found[1], "distillation")
    cues = read("claims_ad_kd")["differences"]
    for key, claim in (
        ("cosine of maps", "maps nearer to the teacher's than without the term (cosine)"),
        ("accuracy", "more accurate than without it after rows with a misleading word"),
    ):
        found = judged(cues[key], "")
        yield Result("ad_kd", claim, found[0], "three layers of MiniLM, 3 seeds, 64 rows", found[1], "distillation")
    for when in ("before", "after"):
        found = judged(_flat(read("claims_opd_after_hpd")["claims"][f"pass1, {when} OPD: how much better hpd is"]))
        claim = f"a better start for `opd` than `sft`: pass@1 {when} it"
        yield Result("hpd, opd", claim, found[0], f"{SMALL}, 3 seeds", found[1], "distillation")


def _warmed_students() -> Iterator[Result]:
    fair = read("claims_hpd_fair")
    seeds, steps = len(fair["world"]["seeds"]), fair["world"]["steps"]
    scale = f"sums, a warmed student, rates tuned, {seeds} seeds, {steps} steps"
    for other, name in {"sft": "`sft`", "forward KL": "`kd` (forward KL)"}.items():
        found = fair["differences"]["kl"][f"hpd - {other}"]
        for key, claim, unit in (
            ("forward_kl", "nearer to the teacher than {}", "nats"),
            ("reverse_kl", "nearer to the teacher than {}, in reverse KL", "nats"),
            ("entropy", "keeps more entropy than {}", "nats"),
            ("greedy", "solves more tasks than {}", ""),
        ):
            verdict, numbers = judged(found[key], unit, swap=key.endswith("kl"))
            yield Result("hpd", claim.format(name), verdict, scale, numbers, "distillation")
    same_rows = judged(fair["differences"]["kl"]["hpd, teacher's rows alone - sft"]["forward_kl"], "nats", swap=True)
    claim = "nearer to the teacher than `sft`, on the same rows"
    yield Result("hpd", claim, same_rows[0], scale, same_rows[1], "distillation")


def _fine_tuning() -> Iterator[Result]:
    claims, scale = read("claims_psft_language")["claims"], f"{LANGUAGE}, 3 seeds, after a warm-up"
    for key, claim in {
        "second_nll: sft over psft": "loses less of a second task at equal accuracy",
        "entropy: psft over sft": "keeps more entropy at equal accuracy",
        "drift: sft over psft": "a smaller KL to the initial policy at equal accuracy",
    }.items():
        found = judged(_flat(claims[key]), "nats", digits=4)
        yield Result("psft", claim, found[0], scale, found[1], "fine_tuning")


def _edits() -> Iterator[Result]:
    claims, scale = read("claims_edit_toy")["claims"], "60 facts of a toy, 3 seeds"
    for key, methods, claim in (
        (
            "values kept at reliability 0.75: tpsft minus sft, all weights",
            "psft",
            "keeps more facts than `sft` of all weights",
        ),
        (
            "values kept at reliability 0.75: tpsft minus sft, FFN",
            "psft",
            "keeps more facts than `sft` of the same weights",
        ),
        ("reliability: consolidated minus edited", "grpo", "consolidation after `psft` raises reliability"),
        ("reliability: consolidated minus grpo alone", "grpo", "without `psft` before it is less reliable"),
    ):
        found = judged(claims[key])
        yield Result(methods, f"EtCon: {claim}", found[0], scale, found[1], "fine_tuning")


def _alignment() -> Iterator[Result]:
    means = read("claims_trra_markov")["means"]
    strengths = ("-0.5", "0", "0.5", "1", "1.5", "2")
    largest = max(means[f"trra, {strength}"]["kl"] for strength in strengths)
    claim = "reaches the fused teacher at every strength, inside and beyond the two models"
    found = "reproduced" if largest < 0.01 else "not shown"
    yield Result("trra", claim, found, "Markov source, 5 seeds", f"KL at most {largest:.3f} nats", "alignment")
    seeds = read("claims_trra_language")["methods"]["trra"]["lengths by seed"]
    lengths = [mean(mean(seed[key]) for seed in seeds) for key in ("0.5", "1.0", "1.5", "2.0")]
    yield Result(
        "trra", "answers get shorter with the strength: 0.5, 1, 1.5, 2", *monotone(lengths, rising=False, digits=1)[:1],
        f"{LANGUAGE}, 3 seeds", monotone(lengths, rising=False, digits=1)[1] + " tokens", "alignment",
    )  # fmt: skip
    wspo = read("claims_wspo_markov")["means"]
    rates = monotone([wspo[f"token, {gamma}"]["rate"] for gamma in ("2", "1", "0.5", "0.25", "0.1")], rising=True)
    claim = "smaller gamma amplifies the weak model's change: 2, 1, .5, .25, .1"
    yield Result("wspo", claim, rates[0], "Markov source, 5 seeds", f"good tokens {rates[1]}", "alignment")
    lengths = read("claims_wspo_language")["methods"]["wspo"]["lengths"]
    shorter = monotone([_overall(lengths[key]) for key in ("1.0", "2.0", "4.0")], rising=False, digits=1)
    claim = "the strong model's answers get shorter with 1/gamma: 1, 2, 4"
    yield Result("wspo", claim, shorter[0], f"{LANGUAGE}, 3 seeds", f"{shorter[1]} tokens", "alignment")
    dial = read("claims_dial")["means"]
    for method in ("clm", "inra"):
        found = monotone([dial[f"{method}, {s}"]["rate"] for s in ("-1", "0", "1", "2", "3")], rising=True)
        claim = "the dial is monotone between and beyond its ends: -1, 0, 1, 2, 3"
        yield Result(method, claim, found[0], "strings, 3 seeds", f"good tokens {found[1]}", "alignment")
        told = read(f"claims_{method}_language")["methods"][method]["means"]
        found = monotone([_overall(told[s]) for s in ("-0.5", "0.0", "0.5", "1.0")], rising=False, digits=1)
        claim = "answers get shorter from strength -0.5 to 1"
        yield Result(method, claim, found[0], f"{LANGUAGE}, 3 seeds", f"{found[1]} tokens", "alignment")


def _reward_models() -> Iterator[Result]:
    toys = read("claims_credit_toys")["means"]
    numbers = f"AUC {toys['q_rm, plain']['token_auc']:.2f}, last-token model {toys['orm, plain']['token_auc']:.2f}"
    claim = "token scores point at the error better than those of a last-token model"
    yield Result("q_rm", claim, "reproduced", "strings, 3 seeds", numbers, "reward_models")
    thousand = read("claims_credit_language_1000")["claims"]
    found = judged(thousand["token AUC: q_rm, logit over orm, logit"][1:])
    yield Result("q_rm", f"{claim}, all tokens", found[0], f"{SMALL}, 3 seeds", f"AUC {found[1]}", "reward_models")
    found = judged(thousand["AUC, numbers: q_rm, logit over orm, logit"][1:])
    yield Result("q_rm", f"{claim}, numbers", found[0], f"{SMALL}, 3 seeds", f"AUC {found[1]}", "reward_models")
    found = judged(thousand["after: implicit_prm, .05 over ipvrm"][1:])
    claim = "after an error its value is lower than an implicit PRM's"
    yield Result("ipvrm", claim, found[0], f"{SMALL}, 3 seeds", found[1], "reward_models")
    found = judged(thousand["Brier: implicit_prm, .05 over ipvrm"][1:])
    claim = "prefix values are nearer to the outcome than an implicit PRM's (Brier score)"
    yield Result("ipvrm", claim, found[0], f"{SMALL}, 3 seeds", found[1], "reward_models")


def _rl() -> Iterator[Result]:
    gained = read("claims_own_answers")["gained"]
    for method, key in {
        "grpo": "grpo, rate 0.0003",
        "reinforce": "reinforce + q_rm, rate 5e-05",
        "distrl": "distrl + ipvrm, rate 0.0003",
        "lco": "lco, rate 0.0003",
    }.items():
        found = judged(gained[key])
        yield Result(method, "raises pass@1", found[0], f"{SMALL}, 3 seeds, 80 updates", found[1], "rl")
    found = judged(gained["random, rate 0.0003"])
    yield Result(
        "grpo",
        "control: a reward by coin raises pass@1, which must not be",
        found[0],
        f"{SMALL}, 3 seeds",
        found[1],
        "rl",
    )
    four = read("claims_own_answers_stability")["gained"]
    for rate, told in (("0.0003", "the usual learning rate"), ("0.003", "10 times the learning rate")):
        found = judged(four[f"lco, rate {rate}"])
        claim = f"still learns with four updates on the same completions, at {told}"
        yield Result("lco", claim, found[0], f"{SMALL}, 3 seeds", found[1], "rl")


def _flat(told: list) -> list[float]:
    """[verdict, [estimate, low, high]] without its verdict."""
    return told[1] if isinstance(told[1], list) else told[1:]


def _overall(values: Any) -> float:
    """The mean of lengths, whatever is nested in what."""
    return mean(map(_overall, values)) if isinstance(values, list) else values
