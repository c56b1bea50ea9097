"""Images for virtual machines: recipes, builds and the store (see docs/roadmap in design; built by a later issue)."""
