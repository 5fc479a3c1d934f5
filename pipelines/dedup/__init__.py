"""Deduplication: exact by content hash, near by MinHash, global over components and sources.

A document's number here is `task << 32 | row`: its unit's place in the plan and its row there, so comparing numbers
compares documents in the order of the plan.
"""
