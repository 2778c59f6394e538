"""The stream of samples: opened shard sets, order and augmentation as pure functions, and the renderers."""
