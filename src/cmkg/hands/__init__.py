"""3D hand pose from one RGB image: the paper's task, built on the core."""
