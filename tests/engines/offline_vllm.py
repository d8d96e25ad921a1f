"""Runs with vLLM's Python: answers of models under several settings, in one process, which costs one start.

    python offline_vllm.py CASES RESULTS

CASES is a JSON list of {"folder", "settings" of LLM, "environment", "jobs": [{"prompt", "sampling"}]}; RESULTS becomes
a list of {"tokens", "logprobs", "metrics"}, or {"error"} where the model was refused.
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"

COMMON = {"dtype": "float32", "max_model_len": 128, "enforce_eager": True, "kv_cache_memory_bytes": 2**25,
          "max_num_seqs": 6, "max_num_batched_tokens": 24, "block_size": 32, "skip_tokenizer_init": True,
          "disable_log_stats": False}  # fmt: skip


def answers(llm, jobs: list[dict]) -> dict:
    from vllm import SamplingParams

    asked = [SamplingParams(temperature=0, detokenize=False, **job["sampling"]) for job in jobs]
    outputs = llm.generate([{"prompt_token_ids": job["prompt"]} for job in jobs], asked, use_tqdm=False)
    found = [output.outputs[0] for output in outputs]
    metrics = {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}
    logprobs = [
        [step[token].logprob for step, token in zip(one.logprobs or [], one.token_ids, strict=bool(one.logprobs))]
        for one in found
    ]
    return {"tokens": [list(one.token_ids) for one in found], "logprobs": logprobs, "metrics": metrics}


def run(case: dict) -> dict:
    from vllm import LLM

    os.environ.update(case.get("environment", {}))
    try:
        llm = LLM(case["folder"], **{**COMMON, **case.get("settings", {})})
    except Exception as error:  # whatever it is, the test compares its words
        return {"error": str(error)}
    finally:
        for name in case.get("environment", {}):
            del os.environ[name]
    try:
        return answers(llm, case["jobs"]) if case["jobs"] else {}
    except Exception as error:  # a request that was refused
        return {"error": str(error)}
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


if __name__ == "__main__":
    cases, results = map(Path, sys.argv[1:])
    found = [run(case) for case in json.loads(cases.read_text(encoding="utf-8"))]
    results.write_text(json.dumps(found), encoding="utf-8")
