"""What a model has learnt, on held-out records: loss by component and position, and retrieval (docs/evaluation.md)."""
