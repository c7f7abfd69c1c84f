"""What is shown: callbacks that write to MLflow, draw, alarm and export."""
