"""A decoding strategy of trimtab for `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)`."""


def generate(model, strategy="adaptive", settings=None, logits_processor=None, generation_config=None, **kwargs):
    """As `model.generate`, by a strategy of trimtab with its settings.

    Nothing of the model's own generation config acts besides, but its end tokens; what is handed over does, in
    `generation_config` or by name, unless the strategy itself sets it.
    """
    from types import SimpleNamespace

    from transformers import LogitsProcessorList

    from trimtab import decoding
    from trimtab.decoding._batching import cache_is_right

    for name in ("custom_generate", "trust_remote_code"):
        kwargs.pop(name, None)
    handed = {} if generation_config is None else vars(generation_config)
    given = {name: value for name, value in {**handed, **kwargs}.items() if value is not None and name[0] != "_"}
    own = model.generation_config
    tokens = {name: given.get(name, getattr(own, name)) for name in ("eos_token_id", "pad_token_id")}
    marks = kwargs.get("tokenizer") or SimpleNamespace(**tokens)
    arguments = decoding.arguments(strategy, marks, **(settings or {}))
    prompts = next((kwargs[name] for name in ("input_ids", "inputs") if kwargs.get(name) is not None), ())
    if not cache_is_right(model, len(prompts), arguments.get("num_beams") or 1):
        kwargs["use_cache"] = given["use_cache"] = False
    own_settings = decoding.sets(strategy, arguments)
    for name in sorted(own_settings & kwargs.keys()):
        if kwargs[name] is not None and kwargs[name] != arguments[name]:
            raise decoding.DecodingError(
                f"{name} is set by the strategy {strategy}; say it in settings, or leave it out"
            )
    processors = LogitsProcessorList([*(logits_processor or ()), *arguments.pop("logits_processor", ())])
    free = {name: value for name, value in given.items() if name not in own_settings and name != "transformers_version"}
    return model.generate(**{**arguments, **free}, logits_processor=processors)
