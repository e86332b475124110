"""Frames to events: an ingester reads its streams, keeps every frame until it is done, and sends it to its worker."""
