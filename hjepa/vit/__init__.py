"timm's Vision Transformers: made by name, loaded from files, and their blocks in fewer operations."
