"""Write files with 4-bit weights through ai-edge-quantizer."""
