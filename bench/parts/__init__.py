"""The parts of the benchmark that run inside the ranks: one class a family of cases, made at the driver's command."""
