"""Sample a teacher's answers to the everyday prompts; this made src/trimtab/data/bundled/everyday_*.jsonl.

    python scripts/teacher_answers.py --model smollm2-135m --out src/trimtab/data/bundled

Answers that did not end within the limit are drawn anew, at most `--tries` times, and left out after that.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from trimtab.data.generators.prompts import everyday
from trimtab.models.loading import load_model, load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model, tokenizer = load_model(args.model), load_tokenizer(args.model)
    tokenizer.padding_side = "left"
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    for split in ("heldout", "train"):
        answers: dict[str, str] = {}
        prompts = everyday(split)
        for attempt in range(args.tries):
            waiting = [p for p in prompts if p not in answers]
            for start in range(0, len(waiting), args.batch_size):
                part = waiting[start : start + args.batch_size]
                answers.update(ask(model, tokenizer, part, args))
                print(f"{split}: try {attempt + 1}, {len(answers)} of {len(prompts)}, {time.time() - started:.0f} s")
        path = args.out / f"everyday_{split}.jsonl"
        with path.open("w", encoding="utf-8") as out:
            for prompt in prompts:
                if prompt in answers:
                    turns = [("user", prompt), ("assistant", answers[prompt])]
                    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")


def ask(model, tokenizer, prompts: list[str], args: argparse.Namespace) -> dict[str, str]:
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
        for p in prompts
    ]
    inputs = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
    sampling = {"do_sample": True, "temperature": args.temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, **sampling)
    found = {}
    for prompt, ids in zip(prompts, output[:, inputs.input_ids.size(1) :].tolist()):
        if tokenizer.eos_token_id in ids:
            text = tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)]).strip()
            if text:
                found[prompt] = text
    return found


if __name__ == "__main__":
    main()
