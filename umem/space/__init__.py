"""The global address space as a program holds it: space, arrays, scalars, messages, start-up."""
