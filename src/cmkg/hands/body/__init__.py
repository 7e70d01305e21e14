"""Hands as meshes: shape, pose, limits of the joints, a hand laid into given joints."""
