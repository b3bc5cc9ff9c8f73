"""What a model is judged by on a batch of training pairs."""
