"""What pictures are worth: measures of any checkpoint or folder of pictures, each with the network that gave it."""
