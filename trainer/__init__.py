"""The trainer: DeepSeek-V3 in plain TensorFlow. Importing this imports no TensorFlow."""
