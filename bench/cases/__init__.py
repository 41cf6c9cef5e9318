"""The cases of the benchmark: one small class each, registered when its module is imported."""
