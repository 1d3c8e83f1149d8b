"Beside the mask strategies: checks of their settings, and masks for several crops of an image."
