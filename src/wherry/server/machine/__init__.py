"""What the service takes from the machine it runs on: disks, files, descriptors, memory, signals."""
