"""The conditional U-Net that makes marks, its objective and its training."""
