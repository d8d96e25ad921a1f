"""Mathematics that two or more methods share: tensors in, unreduced tensors out."""
