"""Files with weights of 4 bits, through ai-edge-quantizer."""
