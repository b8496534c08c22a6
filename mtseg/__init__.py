"""mtseg: Mask2Former in which every instance carries several labels, as a pipeline you can debug."""
