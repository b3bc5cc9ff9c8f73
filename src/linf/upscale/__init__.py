"""`linf upscale`: users' own pictures, of any size, at any scale."""
