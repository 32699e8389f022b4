"""An image's presence in a region: blocks that can be reused, good copies of bad ones, the published manifest."""
