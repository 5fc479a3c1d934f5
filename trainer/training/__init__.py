"""The training run: its config, its loop, and what it reports."""
