"""Images as files and arrays: reading, writing, the two bicubics, and the weights of grey."""
