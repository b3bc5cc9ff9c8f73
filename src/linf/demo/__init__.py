"""`linf demo`: a local page that mixes one picture's mean and texture at any temperature."""
