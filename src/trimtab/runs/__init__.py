"""A training run: the recipe, what it loads, its folder, and the order of things."""
