"""The Beam jobs: raw corpora in, exactly mixed shards out."""
