"""A model with a dial behind OpenAI's API and a page: the engine that answers, and what stands in front of it."""
