//! Pull of an image.
