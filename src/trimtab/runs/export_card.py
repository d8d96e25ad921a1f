"""Model cards of exported folders, with requests that can be copied."""

from trimtab.models.dial import DialConfig

HEAD = "---\nlibrary_name: transformers\ntags: [trimtab{}]\n{}---\n\n"

DIAL = """\
# {name}: one model, any strength

{origin}One inserted layer carries the change. The network runs around it (the original model) and through it (the
aligned model), and the logits are mixed: z = (1 - s) z_original + s z_aligned. The strength s is chosen for each
request: 0 is the original model, 1 the aligned one, and both cost one pass; others cost two, in one batch.

{recommended} (warned about outside); refused below {least:g} and above {most:g}.

## transformers

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{name}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
chat = [{{"role": "user", "content": "What is rain?"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
for strength in (0.0, 0.5, 1.0, [1.0, 0.5, 0.0]):
    out = model.generate(
        **inputs, custom_generate=folder, trust_remote_code=True, strength=strength, max_new_tokens=64
    )
    print(strength, tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

A list of n strengths is a schedule: of the T tokens that the answer may have (`max_new_tokens`), token t gets number
floor(t n / T). For a batch, give a list with one list of strengths for each prompt.

## transformers serve

    transformers serve --trust-remote-code {name}

```bash
curl http://localhost:8000/v1/chat/completions -H "Content-Type: application/json" -d '{{
  "model": "{name}",
  "messages": [{{"role": "user", "content": "What is rain?"}}],
  "max_completion_tokens": 64,
  "generation_config": "{{\\"strength\\": 0.5}}"
}}'
```

```python
import json

from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
for strength in (0.0, 1.0):
    answer = client.chat.completions.create(
        model="{name}",
        messages=[{{"role": "user", "content": "What is rain?"}}],
        max_completion_tokens=64,
        extra_body={{"generation_config": json.dumps({{"strength": strength}})}},
    )
    print(strength, answer.choices[0].message.content)
```

- `generation_config` replaces the folder's own generation settings: put `do_sample`, `temperature` and others beside
  `strength`.
- Without `--trust-remote-code`, and with `--continuous-batching`, the strength is ignored: every answer is that of
  strength 1.
- The code that is trusted is [`custom_generate/generate.py`](custom_generate/generate.py): one file, which needs torch
  and transformers alone.

## Other software

The folder is an ordinary model with one more layer. Software that knows nothing of the dial runs it at strength 1.
"""


def of_dial(name: str, dial: DialConfig, trained: str) -> str:
    """The card of a folder with a dial.

    Args:
        name: of the folder.
        trained: the card of the run.
    """
    base = f"base_model: {dial.base}\n" if _on_hub(dial.base) else ""
    origin = f"`{dial.base}`, realigned by {dial.method}. " if dial.base and dial.method else ""
    least, most = dial.limits
    body = DIAL.format(name=name, origin=origin, recommended=range_line(dial.recommended), least=least, most=most)
    return HEAD.format(", custom_generate", base) + body + _how(trained)


def range_line(span: tuple[float, float]) -> str:
    """How the card begins to name the recommended strengths."""
    low, high = span
    return f"Recommended: {low:g} to {high:g}"


PLAIN = """\
# {name}: strength {strength:g} of a dial

Plain weights of `{source}` at strength {strength:g} (0 is the original model, 1 the aligned one).

How they were made: {how}.

Any software for models of this kind runs it; there is no dial in it any more. The folder with the dial is written by
`trimtab export {source} FOLDER`.
"""
ADAPTER = """\
# {name}: an adapter for PEFT

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")
```

Its dial is that of two models (DeRa, arXiv:2402.02992), z = (1 - s) z_base + s z_adapted:

    trimtab generate --model {base} --aligned {name} --strength 0,0.5,1 --prompt "What is rain?"

Scaling the adapter's weights (PEFT's `scaling`) is another dial, one of weights: equal to it at 0 and 1 alone.
"""


def of_plain(name: str, source: str, strength: float, how: str, trained: str) -> str:
    """The card of plain weights at one strength; `how` they were made, in words."""
    return HEAD.format("", "") + PLAIN.format(name=name, source=source, strength=strength, how=how) + _how(trained)


def of_adapter(name: str, base: str, trained: str) -> str:
    """The card of an adapter on the model `base`."""
    front = "---\nlibrary_name: peft\ntags: [trimtab]\n" + (f"base_model: {base}\n" if _on_hub(base) else "")
    return front + "---\n\n" + ADAPTER.format(name=name, base=base) + _how(trained)


def _on_hub(base: str | None) -> bool:
    return base is not None and base.count("/") == 1 and not base.startswith((".", "/", "~"))


def _how(trained: str) -> str:
    """The run's own card as a section of this one."""
    if not trained:
        return ""
    return "\n## How it was trained\n\n" + "\n".join(
        trained.splitlines()[2:] if trained.startswith("# ") else [trained]
    )
