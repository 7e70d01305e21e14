"""Hand meshes: shape, pose, joint limits, and fitting a hand to given joints."""
