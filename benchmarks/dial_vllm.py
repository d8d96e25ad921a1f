"""What does the dial cost in vLLM: against a doubled batch of the plain model, mixed strengths, memory, and an hour?

Requests are all asked at once over HTTP, with a prompt and a length of their own, greedy; one thread of a CPU.

  dial     N requests at strength 0.5, by the plugin packages/trimtab-vllm
  mixed    the same N requests, each at another strength
  plain    2 N requests to the same folder as an ordinary model of one layer more, without its dial

Memory is what the processes of a server hold by themselves, of `dial` and of `original`, the model without the layer:
the same folder less its first layer. With `--soak MINUTES` sixteen clients ask `dial` for answers of random strengths,
and then `plain` without any, for so long each; errors and memory are noted. The first half counts as a warm-up.

The share of the machine that others use is measured first: where it is above a tenth, nothing is said about times.
"""

import os
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from common import MIB, Target, Timing, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.engines.http import RequestFailed, request_json
from trimtab.engines.vllm import EngineMissing, Serve, VLLMServer, find_vllm, free_port
from trimtab.models.dial import KEY, DialConfig
from trimtab.models.identity_layer import identity_layer, insert_identity_layer
from trimtab.models.loading import load_model, load_tokenizer

TIME_LIMIT, MIXED_LIMIT, MEMORY_LIMIT, GROWTH_LIMIT = 1.25, 1.03, 1.02, 1.02
REQUESTS, PROMPT, SHORTEST, LONGEST, CLIENTS, SEED = 8, 32, 16, 48, 16, 0
QUIET = 0.1
WAIT = 600.0


def lay_out(folder: Path, quick: bool) -> tuple[PreTrainedModel, int]:
    """Folders `dial` and `original`; the second, and the bytes of the one layer that it lacks."""
    torch.manual_seed(SEED)
    if quick:
        size = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
        original = AutoModelForCausalLM.from_config(LlamaConfig(**size, num_hidden_layers=3))
    else:
        original = load_model("smollm2-135m")
    expanded = insert_identity_layer(original)
    layer = identity_layer(expanded)
    for weight in layer.parameters():
        weight.data.add_(torch.randn_like(weight), alpha=0.02)
    setattr(expanded.config, KEY, DialConfig(modules=("model.layers.0",)).tree())
    for name, model in (("dial", expanded), ("original", original)):
        model.save_pretrained(folder / name)
        load_tokenizer("smollm2-135m").save_pretrained(folder / name)
    return original, sum(weight.numel() * weight.element_size() for weight in layer.parameters())


def server(folder: Path, dtype: str, *more: str) -> VLLMServer:
    flags = ("--no-enable-prefix-caching", *more)
    serve = Serve(
        str(folder), free_port(), name="model", dtype=dtype, max_model_len=256, max_num_seqs=2 * REQUESTS,
        kv_cache_bytes=2**28, eager=True, more=flags,
    )  # fmt: skip
    return VLLMServer(serve, environment={"OMP_NUM_THREADS": "1"})


def ask(one: VLLMServer, prompt: list[int], tokens: int, strength: float | None) -> int:
    """Tokens of an answer, all that were asked for."""
    asked = {"model": "model", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    asked |= {"return_token_ids": True}
    asked |= {} if strength is None else {"vllm_xargs": {"strength": strength}}
    said = request_json(f"{one.url}/v1/completions", asked, timeout=WAIT)
    found = len(said["choices"][0]["token_ids"])
    if found != tokens:
        raise SystemExit(f"error: the server's answer has {found} tokens, not {tokens}")
    return found


def ask_all(one: VLLMServer, jobs: list[tuple[list[int], int]], strengths: list[float | None]) -> int:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return sum(pool.map(lambda job, strength: ask(one, *job, strength), jobs, strengths))


def held(one: VLLMServer) -> int:
    """Bytes that the server's processes hold and share with nobody."""
    assert one.process is not None
    root = psutil.Process(one.process.pid)
    return sum(process.memory_full_info().uss for process in [root, *root.children(recursive=True)])


def soak(one: VLLMServer, vocab: int, minutes: float, dial: bool) -> dict[str, Any]:
    """Sixteen clients, with random strengths of a dial, for so long; memory is noted ten times."""
    begun, until = time.monotonic(), time.monotonic() + 60 * minutes
    counts, errors, lock = [0, 0], [], threading.Lock()

    def client(number: int) -> None:
        draw = random.Random(SEED + number)
        while time.monotonic() < until:
            prompt = [draw.randrange(3, vocab) for _ in range(draw.randrange(4, 2 * PROMPT))]
            tokens, strength = draw.randrange(1, LONGEST), draw.choice([0.0, 1.0, round(draw.uniform(-0.5, 2.0), 3)])
            try:
                ask(one, prompt, tokens, strength if dial else None)
            except RequestFailed as error:
                with lock:
                    errors.append(str(error))
            else:
                with lock:
                    counts[0] += 1
                    counts[1] += tokens

    memory: list[int] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        while time.monotonic() < until:
            time.sleep(min(6 * minutes, max(0.0, until - time.monotonic())))
            memory.append(held(one))
    for each in clients:
        each.result()
    return {
        "minutes": round((time.monotonic() - begun) / 60, 2), "clients": CLIENTS, "answers": counts[0],
        "tokens": counts[1], "errors": errors, "held_mib": [round(x / MIB, 1) for x in memory],
        "growth": round(memory[-1] / memory[len(memory) // 2 - 1], 4),
    }  # fmt: skip


def measured(args: Any, folder: Path, original: PreTrainedModel) -> tuple[dict[str, Timing], dict[str, Any]]:
    vocab, dtype = original.config.vocab_size, "float32" if args.quick else args.dtype
    generator = torch.Generator().manual_seed(SEED)
    lengths = torch.linspace(SHORTEST, LONGEST, REQUESTS).round().int().tolist()
    jobs = [(torch.randint(3, vocab, (PROMPT,), generator=generator).tolist(), length) for length in lengths]
    mixed = [round(0.15 + 0.2 * place, 2) for place in range(REQUESTS)]
    found: dict[str, Any] = {"tokens": sum(lengths)}
    with server(folder / "original", dtype) as one:
        ask_all(one, jobs, [None] * REQUESTS)
        found["original_mib"] = held(one) / MIB
    no_dial = ("--hf-overrides", f'{{"{KEY}": null}}')
    with ExitStack() as stack:
        dial, plain = (stack.enter_context(server(folder / "dial", dtype, *more)) for more in ((), no_dial))
        ask_all(dial, jobs, [0.5] * REQUESTS)
        found["dial_mib"] = held(dial) / MIB
        busy = psutil.cpu_percent(5.0) / 100
        steps = {
            "dial": partial(ask_all, dial, jobs, [0.5] * REQUESTS),
            "mixed": partial(ask_all, dial, jobs, mixed),
            "plain": partial(ask_all, plain, [*jobs, *jobs], [None] * 2 * REQUESTS),
        }
        timings = alternate(steps, args.repeats or (1 if args.quick else 7), patience=0.0)
        found["busy"] = statistics.mean([busy, psutil.cpu_percent(5.0) / 100])
        if args.soak:
            tell(f"{CLIENTS} clients for {args.soak:g} minutes")
            found["soak"] = soak(dial, vocab, args.soak, True)
            found["soak of plain"] = soak(plain, vocab, args.soak, False)
    return timings, found


def judge(timings: dict[str, Timing], found: dict[str, Any], layer: int, quick: bool) -> list[Target]:
    seconds = {name: timing.median for name, timing in timings.items()}
    times = [
        Target("dial_vllm: time over that of a doubled batch", TIME_LIMIT, ratio(seconds["dial"], seconds["plain"])),
        Target("dial_vllm: mixed strengths over equal ones", MIXED_LIMIT, ratio(seconds["mixed"], seconds["dial"])),
    ]
    if found["busy"] > QUIET:
        why = f"others used {found['busy']:.0%} of the machine; the ratio seen was"
        times = [Target(one.what, one.limit, None, f"{why} {one.found:.3f}") for one in times]
    one_more = found["original_mib"] + layer / MIB
    what = "dial_vllm: memory over that of the original and one layer"
    targets = [*times, Target(what, MEMORY_LIMIT, ratio(found["dial_mib"], one_more))]
    if "soak" in found:
        targets += [
            Target("dial_vllm: errors of the soak", 0, len(found["soak"]["errors"])),
            Target("dial_vllm: memory at its end over that at its half", GROWTH_LIMIT, found["soak"]["growth"]),
        ]
    return unjudged(targets) if quick else targets


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="of sixteen clients; none by default")
    made.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    args = made.parse_args()
    try:
        find_vllm()
    except EngineMissing as error:
        print(f"not run: {error}")
        return
    torch.set_num_threads(1)
    loads = [os.getloadavg()]
    with tempfile.TemporaryDirectory() as place:
        original, layer = lay_out(Path(place), args.quick)
        timings, found = measured(args, Path(place), original)
    loads.append(os.getloadavg())
    targets = judge(timings, found, layer, args.quick)
    result = {
        "signature": signature(),
        "settings": {
            "requests": REQUESTS, "prompt_tokens": PROMPT, "lengths": [SHORTEST, LONGEST], "threads": 1,
            "model": "tiny" if args.quick else "smollm2-135m", "dtype": "float32" if args.quick else args.dtype,
            "load_average": [[round(one, 1) for one in load] for load in loads],
        },
        "contestants": {name: timing.record() for name, timing in timings.items()},
        "layer_mib": round(layer / MIB, 2),
        **found,
    }  # fmt: skip
    path = write("dial_vllm", args, result, targets)
    rows = [[name, timing.median, found["tokens"] * (2 if name == "plain" else 1) / timing.median]
            for name, timing in timings.items()]  # fmt: skip
    print(table(["contestant", "s", "tokens/s"], rows), "")
    print(f"memory: {found['dial_mib']:.0f} MiB, of the original {found['original_mib']:.0f}", "", sep="\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
