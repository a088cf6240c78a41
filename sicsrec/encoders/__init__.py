"""Text and image encoders: loading, encoding, and the losses that align them (METHOD 1.2, 1.3)."""
