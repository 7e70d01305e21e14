"""Rendering of hands: a rasterizer, scenes, backgrounds, and look-alikes of a target."""
