"""Several block shapes of a layer train side by side until one is left."""
