"""Training on many processes: a `data` x `expert` mesh and the collectives between its processes."""

from trainer.mesh.cluster import PeerLost
from trainer.mesh.mesh import Mesh, MeshConfig
from trainer.mesh.shards import Owned, Shards

__all__ = ["Mesh", "MeshConfig", "Owned", "PeerLost", "Shards"]
