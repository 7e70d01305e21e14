"""Fine-tunes MediaPipe's landmark network: frames, views, training steps and scores."""
