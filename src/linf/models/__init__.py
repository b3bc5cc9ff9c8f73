"""The paper: encoder, conditioner, flow and prior, what decodes them, and what they are held against."""
