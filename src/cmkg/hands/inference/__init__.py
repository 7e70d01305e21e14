"""Hand pose inference on arbitrary pictures and videos: reading, tracking, drawing, exporting."""
