"""Our mathematics as parts of other trainers. Nothing in trimtab imports them."""
