"""Fuzzing of what meets foreign data: readers, cleaners, measures, the tokenizer. `python -m tests.fuzz --help`."""
