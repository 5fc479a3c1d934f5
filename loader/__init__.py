"""Reading prepared shards: inspection and verification. Importing this imports no TensorFlow."""
