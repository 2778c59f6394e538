"""The stream of samples: shards opened, order and augmentation as pure functions, and what renders them."""
