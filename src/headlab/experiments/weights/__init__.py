"""What the weights of heads tell about them."""
