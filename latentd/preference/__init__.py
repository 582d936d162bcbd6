"""The user study of Rombach et al. 2022 (Tab. 4): two pictures, and people who choose without knowing whose."""
