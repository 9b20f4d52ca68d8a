"""The decoder: Flax Linen modules used purely (init and apply; state goes in and comes out)."""
