"""3D hand pose from RGB; it depends on the core, never the reverse."""
