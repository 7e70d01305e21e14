"""A hand in anybody's photograph: reading, boxes, joints in pixels and millimetres, drawing."""
