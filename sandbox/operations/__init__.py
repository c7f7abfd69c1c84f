"""The table of operations: parameters and bounds, output size and frame, Pillow and OpenCV implementations."""
