"""A decoding strategy of trimtab for `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)`."""


def generate(model, strategy="adaptive", settings=None, logits_processor=None, generation_config=None, **kwargs):
    """As `model.generate`, by a strategy of trimtab with its settings."""
    from transformers import LogitsProcessorList

    from trimtab import decoding

    config = generation_config or model.generation_config
    arguments = decoding.arguments(strategy, config, **(settings or {}))  # reads eos_token_id and pad_token_id
    processors = LogitsProcessorList([*(logits_processor or ()), *arguments.pop("logits_processor", ())])
    for name in ("custom_generate", "trust_remote_code"):
        kwargs.pop(name, None)
    given = {name: value for name, value in kwargs.items() if value is not None}
    return model.generate(**given, generation_config=generation_config, logits_processor=processors, **arguments)
