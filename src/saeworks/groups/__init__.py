"""Which layers are alike: angular distances between sites, partitions of them, and the plan."""
