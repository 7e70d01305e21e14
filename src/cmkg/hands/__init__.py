"""3D hand pose from RGB: knows the core, the core knows nothing of it."""
