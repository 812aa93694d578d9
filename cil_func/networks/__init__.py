"""Networks as functions of explicit trees: layers, the ResNets for small images, any timm model."""
