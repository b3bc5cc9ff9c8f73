"""`linf upscale`: users' own images, of any size, at any scale."""
