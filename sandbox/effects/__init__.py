"""What confined code did to an image, found from the pixels."""
