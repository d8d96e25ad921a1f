"""Completions from a vLLM server: how many tokens a second, against transformers' generate and ours?

Sixteen requests of 64 tokens, each with a prompt of its own and a length of its own, from 16 to 128 tokens spread
evenly; sampled, bfloat16, SmolLM2-135M, one thread on each side. Every contestant writes as many tokens a request.

  generate  transformers' `generate`: a cache that grows, every row to the end of the longest
  ragged    trimtab's early-exit batching: rows that have ended leave
  vllm      `vllm serve`, asked over HTTP for all requests at once, with the log-probability of each token

Then the weights of the model are sent to the server as a file, and compared, as before each batch of rollouts.

The server is started here (TRIMTAB_VLLM names the program), with the plugin packages/trimtab-vllm.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

import rollouts
from common import Target, Timing, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.decoding._early_exit import early_exit
from trimtab.engines.vllm import EngineMissing, Serve, VLLMServer, find_vllm, free_port
from trimtab.models.builtin import builtin_folder
from trimtab.models.loading import load_model
from trimtab.train.served import How, ServerClient

LIMIT = 1 / 3
"""time of vllm over that of generate"""
SEED, REQUESTS, PROMPT, SHORTEST, LONGEST = 0, 16, 64, 16, 128
CLOSE = 0.12
"""nats between server and model after the weights were sent, averaged over tokens, in bfloat16"""


def ask_all(client: ServerClient, prompts: list[list[int]], lengths: list[int]) -> int:
    """The tokens that the server writes."""

    def ask(place: int) -> int:
        ends = {"ignore_eos": True, "seed": SEED + place}  # its length is known, as that of the others
        found = client.generate([prompts[place]], max_tokens=lengths[place], logprobs=0, generation_kwargs=ends)
        return len(found["completion_ids"][0])

    with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
        written = list(pool.map(ask, range(len(prompts))))
    if written != lengths:
        raise SystemExit(f"error: the server's answers have the lengths {written}, not {lengths}")
    return sum(written)


def send(client: ServerClient, model: Any, ids: list[int]) -> float:
    """Send the weights; nats between what server and model say of these tokens then."""
    named = [*model.named_parameters(), ("lm_head.weight", model.lm_head.weight)]
    client.version = f"benchmark {time.time_ns()}"
    client.update_named_params([], iter(named))
    client.reset_prefix_cache()
    own = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(dim=-1)
    own = own.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return float((client.logprobs(ids) - own).abs().mean())


def measured(args: Any, model: Any, folder: Path) -> tuple[dict[str, Timing], Timing, float, dict[str, Any]]:
    generator = torch.Generator().manual_seed(SEED)
    spread = torch.linspace(SHORTEST, rollouts.QUICK_LONGEST if args.quick else LONGEST, REQUESTS).round().int()
    lengths = spread[torch.randperm(REQUESTS, generator=generator)].tolist()
    ids = torch.randint(3, rollouts.FIRST, (REQUESTS, PROMPT), generator=generator)
    steps: dict[str, Any] = {
        "generate": partial(rollouts.write_all, model, ids, lengths),
        "ragged": partial(rollouts.write_all, model, ids, lengths, custom_generate=early_exit),
    }
    tokens = {"tokens": sum(lengths), "lengths": [min(lengths), max(lengths)]}
    if args.quick:
        return alternate(steps, args.repeats or 1, patience=0.0), Timing(), 0.0, tokens
    flags = ("--weight-transfer-config", '{"backend": "file"}', "--logprobs-mode", "processed_logprobs")
    serve = Serve(
        str(builtin_folder("smollm2-135m")), free_port(), dtype="bfloat16", max_model_len=1024, max_num_seqs=32,
        kv_cache_bytes=2**30, eager=True, more=flags,
    )  # fmt: skip
    own = {"TRIMTAB_WEIGHTS_FOLDER": str(folder), "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    with VLLMServer(serve, environment=own) as server:
        tell(f"the server is up after {time.perf_counter() - started:.0f} s")
        client = ServerClient(How(server.url, str(folder), 10.0, 600.0, "bfloat16"), "smollm2-135m")
        client.connect(torch.device("cpu"), {})
        steps["vllm"] = partial(ask_all, client, ids.tolist(), lengths)
        timings = alternate(steps, args.repeats or 3, patience=0.0)
        apart: list[float] = []
        sync = alternate({"sync": lambda: apart.append(send(client, model, ids[0].tolist()))}, args.repeats or 3, 0.0)
    return timings, sync["sync"], max(apart), tokens


def main() -> None:
    args = parser(__doc__).parse_args()
    try:
        find_vllm()
    except EngineMissing as error:
        print(f"not run: {error}")
        return
    torch.set_num_threads(1)
    model = rollouts.model_of(True) if args.quick else load_model("smollm2-135m", dtype="bfloat16").eval()
    loads = [os.getloadavg()]
    with torch.no_grad(), tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        timings, sync, apart, tokens = measured(args, model, Path(folder))
    loads.append(os.getloadavg())
    speeds = {name: tokens["tokens"] / timing.median for name, timing in timings.items()}
    targets = [
        Target("vllm: time over transformers' generate", LIMIT, ratio(speeds.get("generate"), speeds.get("vllm"))),
        Target("sync: nats between server and model", CLOSE, None if args.quick else apart),
    ]
    result = {
        "signature": signature(),
        "settings": {
            "requests": REQUESTS, "prompt_tokens": PROMPT, **tokens, "model": "smollm2-135m", "dtype": "bfloat16",
            "threads": 1, "load_average": [[round(one, 1) for one in load] for load in loads],
        },
        "contestants": {
            name: {"tokens_per_second": round(speeds[name], 1), **timing.record()} for name, timing in timings.items()
        },
        **({} if args.quick else {"sync": {"nats_apart": apart, **sync.record()}}),
    }  # fmt: skip
    path = write("engines", args, result, unjudged(targets) if args.quick else targets)
    rows = [[name, speeds[name], timings[name].median] for name in timings]
    print(table(["contestant", "tokens/s", "s"], rows), "\n")
    if not args.quick:
        print(f"weights sent and compared in {sync.median:.1f} s; {apart:.2g} nats apart\n")
    print(*(unjudged(targets) if args.quick else targets), path.name, sep="\n")


if __name__ == "__main__":
    main()
