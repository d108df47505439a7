"""Making marks: the secret key, the carrier, the conditional U-Net, its objective and training, and the choice of images."""
