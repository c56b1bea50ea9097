"""Images of Linux containers: taken in from archives and registries, checked, and kept as erofs."""
