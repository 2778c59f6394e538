"""Other people's ways to do the same, for comparison; nothing of ours is in them."""
