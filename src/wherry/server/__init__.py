"""The service: it implements the wire contract and keeps the images."""
