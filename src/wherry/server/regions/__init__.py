"""All that "region" means: the regions file, the served regions and their stores, store identities, the probe."""
