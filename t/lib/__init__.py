# SPDX-License-Identifier: MIT
"""Making ext4 images, filling them, and comparing what different readers see in them."""
