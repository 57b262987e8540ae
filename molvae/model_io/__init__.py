"""The model folder on disk: card, weights, loading, and the models that come with the package."""
