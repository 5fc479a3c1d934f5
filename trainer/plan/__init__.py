"""What a training would cost: parameters, operations, bytes and seconds, by arithmetic alone."""
