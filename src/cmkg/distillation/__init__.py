"""Cross-modal distillation: losses, paired layers, and the Distiller."""
