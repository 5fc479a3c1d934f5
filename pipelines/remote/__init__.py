"""Filesystems other than this machine's: objects of Google Cloud Storage, and whatever else Beam knows.

Each module has the same functions; `pipelines.storage` chooses by the path's scheme.
"""
