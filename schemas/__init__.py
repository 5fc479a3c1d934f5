"""What crosses a boundary: configs, Arrow schemas, manifests, the record, the order, and access to gs://."""
