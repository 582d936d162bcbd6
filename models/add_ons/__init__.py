"""What people add to models from files of their own: LoRAs, embeddings of words, ControlNets."""
