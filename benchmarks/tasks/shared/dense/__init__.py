"""What detection and segmentation share: a frozen encoder's feature maps, label rows, and the training loop."""
