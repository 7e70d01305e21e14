"""Pictures of hands: a rasteriser, scenes, backgrounds, look-alikes of a target."""
