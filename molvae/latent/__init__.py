"""Work in the latent space of a trained model."""
