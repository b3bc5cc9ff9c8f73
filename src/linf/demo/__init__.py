"""`linf demo`: a local page that mixes one image's mean and texture at any temperature."""
