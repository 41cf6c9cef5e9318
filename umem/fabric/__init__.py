"""Ways to move bytes between ranks that share no mapping, or that choose not to use it."""
