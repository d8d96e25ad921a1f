"""Mathematics shared by two or more methods: tensors in, unreduced tensors out."""
