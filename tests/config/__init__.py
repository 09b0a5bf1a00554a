"""What lies in config/ and docs/deploy.md: units, manifests, and what stands in front of a proxy."""
