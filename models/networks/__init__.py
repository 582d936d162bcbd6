"""The networks of the paper: first stages, UNet, conditioners, and the layers that they are made of."""
