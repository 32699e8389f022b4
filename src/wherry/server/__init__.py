"""The service: what answers the wire contract and keeps the images."""
