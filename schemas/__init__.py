"""What crosses a boundary: configs, Arrow schemas, manifests, the record and the order."""
