"""`linf demo`: a local page that enlarges an image and mixes its mean and a sample at any temperature."""
