"""shard: tokens packed into sequences, mixed exactly, written as TFRecords with their provenance."""
